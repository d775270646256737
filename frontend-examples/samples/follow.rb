# Punches as they happen. Goes on where it was after a lost connection.
require "json"
require "net/http"

$stdout.sync = true
QUERY = "subscription { punches { cursor punches { localTime pin direction } } }"
url = URI(ENV.fetch("PUNCHCONNECT_URL"))
headers = {
  "Authorization" => "Bearer #{ENV.fetch("PUNCHCONNECT_KEY")}",
  "Content-Type" => "application/json",
  "Accept" => "text/event-stream",
}

take = lambda do |line|
  next unless line.start_with?("data: ")
  answer = JSON.parse(line.delete_prefix("data: "))
  abort answer["errors"][0]["message"] if answer["errors"]
  batch = answer.dig("data", "punches")
  batch["punches"].each { |punch| puts "#{punch["localTime"]} #{punch["pin"]} #{punch["direction"]}" }
  headers["Last-Event-ID"] = batch["cursor"] # after what was done with the batch, never before
end

loop do
  # The server says something every 15 seconds: after 40 of silence the connection is dead.
  Net::HTTP.start(url.host, url.port, use_ssl: url.scheme == "https", read_timeout: 40) do |http|
    request = Net::HTTP::Post.new(url, headers)
    request.body = {query: QUERY}.to_json
    http.request(request) do |answer|
      abort answer.body if answer.code =~ /^4(?!29)/
      rest = +""
      answer.read_body do |part|
        rest << part
        while (line = rest.slice!(/.*\n/))
          take.call(line.chomp) if answer.code == "200"
        end
      end
    end
  end
rescue SystemCallError, IOError, Timeout::Error, SocketError
  # away: once more
ensure
  sleep 1
end
