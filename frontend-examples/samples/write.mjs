// A write that may be sent again. Node 18 or newer.
const query = `mutation ($input: EmployeeUpsertInput!) {
  employeeUpsert(input: $input) { employee { pin name } idempotentReplay userErrors { code message } }
}`;
const answer = await fetch(process.env.PUNCHCONNECT_URL, {
  method: "POST",
  headers: {
    Authorization: `Bearer ${process.env.PUNCHCONNECT_KEY}`,
    "Content-Type": "application/json",
    "Idempotency-Key": "hire-0042",
  },
  body: JSON.stringify({query, variables: {input: {pin: "0042", name: "Zineb Zaoui"}}}),
});
const done = (await answer.json()).data.employeeUpsert;
for (const error of done.userErrors) throw new Error(`${error.code}: ${error.message}`);
console.log(done.employee.name, done.idempotentReplay ? "again" : "new");
