<?php
// A webhook's signature: body on stdin, headers in the environment.
$body = stream_get_contents(STDIN);
$key = base64_decode(substr(getenv('WEBHOOK_SECRET'), strlen('whsec_')));
$message = getenv('WEBHOOK_ID') . '.' . getenv('WEBHOOK_TIMESTAMP') . '.' . $body;
$expected = 'v1,' . base64_encode(hash_hmac('sha256', $message, $key, true));
$good = false;
foreach (explode(' ', getenv('WEBHOOK_SIGNATURE')) as $each) { // two while a rotation lasts
    $good = $good || hash_equals($expected, $each);
}
$fresh = abs(time() - (int) getenv('WEBHOOK_TIMESTAMP')) < 300;
echo $fresh && $good ? "good\n" : "refused\n";
