<?php
// A write that may be sent again.
$query = 'mutation ($input: EmployeeUpsertInput!) {
  employeeUpsert(input: $input) { employee { pin name } idempotentReplay userErrors { code message } }
}';
$context = stream_context_create(['http' => [
    'method' => 'POST',
    'header' => implode("\r\n", [
        'Authorization: Bearer ' . getenv('PUNCHCONNECT_KEY'),
        'Content-Type: application/json',
        'Idempotency-Key: hire-0042',
    ]),
    'content' => json_encode(['query' => $query, 'variables' => ['input' => ['pin' => '0042', 'name' => 'Zineb Zaoui']]]),
]]);
$answer = json_decode(file_get_contents(getenv('PUNCHCONNECT_URL'), false, $context), true);
$done = $answer['data']['employeeUpsert'];
foreach ($done['userErrors'] as $error) {
    exit("{$error['code']}: {$error['message']}\n");
}
echo $done['employee']['name'], ' ', $done['idempotentReplay'] ? 'again' : 'new', "\n";
