# All punches since a moment, page by page.
require "json"
require "net/http"

QUERY = <<~GRAPHQL
  query ($after: String) {
    punches(first: 100, after: $after, filter: {receivedAt: {gte: "2020-01-01T00:00:00Z"}}) {
      nodes { id localTime pin direction }
      pageInfo { hasNextPage endCursor }
    }
  }
GRAPHQL

headers = {"Authorization" => "Bearer #{ENV.fetch("PUNCHCONNECT_KEY")}", "Content-Type" => "application/json"}
after = nil
loop do
  body = {query: QUERY, variables: {after: after}}.to_json
  page = JSON.parse(Net::HTTP.post(URI(ENV.fetch("PUNCHCONNECT_URL")), body, headers).body).dig("data", "punches")
  page["nodes"].each { |punch| puts "#{punch["localTime"]} #{punch["pin"]} #{punch["direction"]}" }
  break unless page["pageInfo"]["hasNextPage"]
  after = page["pageInfo"]["endCursor"]
end
