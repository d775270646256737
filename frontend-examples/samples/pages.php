<?php
// All punches since a moment, page by page.
$query = 'query ($after: String) {
  punches(first: 100, after: $after, filter: {receivedAt: {gte: "2020-01-01T00:00:00Z"}}) {
    nodes { id localTime pin direction }
    pageInfo { hasNextPage endCursor }
  }
}';

$after = null;
do {
    $context = stream_context_create(['http' => [
        'method' => 'POST',
        'header' => "Authorization: Bearer " . getenv('PUNCHCONNECT_KEY') . "\r\nContent-Type: application/json",
        'content' => json_encode(['query' => $query, 'variables' => ['after' => $after]]),
    ]]);
    $answer = file_get_contents(getenv('PUNCHCONNECT_URL'), false, $context);
    $page = json_decode($answer, true)['data']['punches'];
    foreach ($page['nodes'] as $punch) {
        echo "{$punch['localTime']} {$punch['pin']} {$punch['direction']}\n";
    }
    $after = $page['pageInfo']['endCursor'];
} while ($page['pageInfo']['hasNextPage']);
