<?php
// Punches as they happen. Goes on where it was after a lost connection.
$query = 'subscription { punches { cursor punches { localTime pin direction } } }';
$cursor = null;
while (true) {
    $context = stream_context_create(['http' => [
        'method' => 'POST',
        'header' => array_filter([
            'Authorization: Bearer ' . getenv('PUNCHCONNECT_KEY'),
            'Content-Type: application/json',
            'Accept: text/event-stream',
            $cursor === null ? null : "Last-Event-ID: $cursor",
        ]),
        'content' => json_encode(['query' => $query]),
        'timeout' => 40, // the server says something every 15 seconds: after 40 of silence the connection is dead
    ]]);
    $stream = @fopen(getenv('PUNCHCONNECT_URL'), 'r', false, $context);
    if ($stream === false && preg_match('~ 4(?!29)\d\d ~', $http_response_header[0] ?? '')) {
        exit(1);
    }
    $stream && stream_set_chunk_size($stream, 1); // or PHP waits for more before it shows what is there
    while ($stream && ($line = fgets($stream)) !== false) {
        if (!str_starts_with($line, 'data: ')) {
            continue;
        }
        $answer = json_decode(substr($line, 6), true);
        if (isset($answer['errors'])) {
            fwrite(STDERR, $answer['errors'][0]['message'] . "\n");
            exit(1);
        }
        foreach ($answer['data']['punches']['punches'] as $punch) {
            echo "{$punch['localTime']} {$punch['pin']} {$punch['direction']}\n";
        }
        $cursor = $answer['data']['punches']['cursor']; // after what was done with the batch, never before
    }
    sleep(1);
}
