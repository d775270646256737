<?php

// A webhook receiver in one file, with nothing but PHP itself (8.0 or newer).
//
//     WEBHOOK_SECRET=whsec_… PORT=9000 php receiver.php
//
// It checks both signatures, takes each event once, answers at once and does the work afterwards. One signature is enough
// in practice: webhook-signature, because it covers the time too, so that a recorded request cannot be sent again later.
// Behind Apache or nginx keep `verify`: the raw body is file_get_contents('php://input'), the headers getallheaders().

declare(strict_types=1);

const TOLERANCE_SECONDS = 300;
const LARGEST_BODY = 1024 * 1024;
const REMEMBERED = 10000;

// During a rotation the variable may hold two secrets, separated by a comma.
define('SECRETS', array_values(array_filter(array_map('trim', explode(',', (string) getenv('WEBHOOK_SECRET'))))));

/** A request that is not from PunchConnect, or not as it was sent: the status and the reason. */
final class Refused extends Exception
{
}

/** Check both signatures over the raw body, before anything reads it. The names of `$headers` are in lower case. */
function verify(array $headers, string $body): void
{
    foreach (['webhook-id', 'webhook-timestamp', 'webhook-signature', 'x-punchconnect-signature'] as $name) {
        if (($headers[$name] ?? '') === '') {
            throw new Refused("the header $name is missing", 400);
        }
    }
    ['webhook-id' => $id, 'webhook-timestamp' => $timestamp] = $headers;
    if (!preg_match('/^[0-9]{1,12}$/D', $timestamp)) {
        throw new Refused('webhook-timestamp is not a number', 400);
    }
    if (abs(time() - (int) $timestamp) > TOLERANCE_SECONDS) {
        throw new Refused('signed too long ago, or one of the two clocks is wrong', 401);
    }

    // Standard Webhooks: the key is what the base64 after `whsec_` stands for. Any of the listed signatures may match.
    $standard = array_map(function (string $secret) use ($id, $timestamp, $body): string {
        $key = base64_decode(substr($secret, strlen('whsec_')));
        return 'v1,' . base64_encode(hash_hmac('sha256', "$id.$timestamp.$body", $key, true));
    }, SECRETS);
    if (!matches($standard, explode(' ', $headers['webhook-signature']))) {
        throw new Refused('webhook-signature does not match', 401);
    }

    // X-PunchConnect-Signature: the key is the secret's text, `whsec_` included. While a rotation lasts it is made with
    // the previous secret; who has only the new one relies on the check above.
    if (($headers['x-punchconnect-signature-key'] ?? '') !== 'previous' || count(SECRETS) > 1) {
        $plain = array_map(fn (string $secret): string => hash_hmac('sha256', $body, $secret), SECRETS);
        if (!matches($plain, [$headers['x-punchconnect-signature']])) {
            throw new Refused('x-punchconnect-signature does not match', 401);
        }
    }
}

function matches(array $expected, array $given): bool
{
    foreach ($expected as $one) {
        foreach ($given as $other) {
            if (hash_equals($one, $other)) {
                return true;
            }
        }
    }
    return false;
}

/** Every event once. A real receiver has a unique column for `webhook-id`, in the transaction that does the work. */
function take(string $id): bool
{
    static $seen = [];
    if (isset($seen[$id])) {
        return false;
    }
    $seen[$id] = true;
    if (count($seen) > REMEMBERED) {
        unset($seen[array_key_first($seen)]);
    }
    return true;
}

/** What the business does with an event: here, a line on the screen. */
function work(array $event): void
{
    fwrite(STDOUT, describe($event) . "\n");
}

function describe(array $event): string
{
    if (!str_starts_with($event['type'], 'punch.')) {
        return "{$event['type']}  {$event['id']}";
    }
    $punch = $event['data'];
    $who = $punch['employee']['name'] ?? 'unknown';
    $where = $punch['device']['name'] ?? $punch['device']['serial_number'];
    return "{$event['type']}  {$punch['local_time']} {$punch['time_zone']}  {$punch['direction']}  "
        . "$who (PIN {$punch['pin']})  $where";
}

/** The answer's text, and the event if it is to be worked on. */
function receive(array $headers, string $body): array
{
    verify($headers, $body);
    $event = json_decode($body, true);
    if (!is_array($event)) {
        throw new Refused('the body is not JSON', 400);
    }
    // A repeat is a success too: PunchConnect only needs to know that it can stop sending.
    return take($headers['webhook-id']) ? ['ok', $event] : ['duplicate', null];
}

// As much HTTP as it takes to try this out.

/** One request out of what has come: [method, headers, body, bytes used]; null while it is not whole. */
function read_request(string $came): ?array
{
    $end = strpos($came, "\r\n\r\n");
    if ($end === false) {
        return null;
    }
    $lines = explode("\r\n", substr($came, 0, $end));
    $method = strtok($lines[0], ' ');
    $headers = [];
    foreach (array_slice($lines, 1) as $line) {
        [$name, $value] = explode(':', $line, 2) + [1 => ''];
        $headers[strtolower($name)] = trim($value);
    }
    if ($method !== 'POST') {
        throw new Refused('webhooks are sent with POST', 405);
    }
    $length = $headers['content-length'] ?? '';
    if (isset($headers['transfer-encoding']) || !preg_match('/^[0-9]{1,12}$/D', $length)) {
        throw new Refused('content-length is missing', 411);
    }
    if ((int) $length > LARGEST_BODY) {
        throw new Refused('the body is too large', 413);
    }
    $body = substr($came, $end + 4, (int) $length);
    return strlen($body) < (int) $length ? null : [$headers, $body, $end + 4 + (int) $length];
}

function answer($socket, int $status, string $text, bool $close): void
{
    $last = $close ? "Connection: close\r\n" : '';
    $length = strlen($text);
    $head = "HTTP/1.1 $status $status\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: $length\r\n$last";
    @fwrite($socket, "$head\r\n$text");
}

if (SECRETS === [] || preg_grep('#^whsec_[A-Za-z0-9+/]+={0,2}$#D', SECRETS, PREG_GREP_INVERT) !== []) {
    fwrite(STDERR, "Set WEBHOOK_SECRET to the secret that webhookEndpointCreate answered with: whsec_…\n");
    exit(2);
}
$address = (getenv('HOST') ?: '127.0.0.1') . ':' . (getenv('PORT') ?: '9000');
$server = stream_socket_server("tcp://$address", $code, $why) ?: exit("$why\n");
fwrite(STDOUT, "listening on http://$address/\n");
$sockets = [];
$waiting = [];
while (true) {
    $ready = [$server, ...$sockets];
    $none = null;
    stream_select($ready, $none, $none, null);
    foreach ($ready as $socket) {
        if ($socket === $server) {
            $new = stream_socket_accept($server);
            $sockets[(int) $new] = $new;
            $waiting[(int) $new] = '';
            continue;
        }
        $number = (int) $socket;
        $piece = fread($socket, 65536);
        $close = $piece === '' || $piece === false;
        $waiting[$number] .= $piece;
        $events = [];
        try {
            while (!$close && ($request = read_request($waiting[$number])) !== null) {
                [$headers, $body, $used] = $request;
                $waiting[$number] = substr($waiting[$number], $used);
                try {
                    [$text, $events[]] = receive($headers, $body);
                    answer($socket, 200, $text, false);
                } catch (Refused $refused) {
                    answer($socket, $refused->getCode(), $refused->getMessage(), false);
                }
            }
        } catch (Refused $refused) {
            // What was not read is not worth reading: the connection goes.
            answer($socket, $refused->getCode(), $refused->getMessage(), true);
            $close = true;
        }
        if ($close) {
            fclose($socket);
            unset($sockets[$number], $waiting[$number]);
        }
        array_map('work', array_filter($events));
    }
}
