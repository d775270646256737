# A write that may be sent again.
require "json"
require "net/http"

MUTATION = <<~GRAPHQL
  mutation ($input: EmployeeUpsertInput!) {
    employeeUpsert(input: $input) { employee { pin name } idempotentReplay userErrors { code message } }
  }
GRAPHQL

headers = {
  "Authorization" => "Bearer #{ENV.fetch("PUNCHCONNECT_KEY")}",
  "Content-Type" => "application/json",
  "Idempotency-Key" => "hire-0042"
}
body = {query: MUTATION, variables: {input: {pin: "0042", name: "Zineb Zaoui"}}}.to_json
answer = JSON.parse(Net::HTTP.post(URI(ENV.fetch("PUNCHCONNECT_URL")), body, headers).body)
done = answer.dig("data", "employeeUpsert")
done["userErrors"].each { |error| abort "#{error["code"]}: #{error["message"]}" }
puts "#{done["employee"]["name"]} #{done["idempotentReplay"] ? "again" : "new"}"
