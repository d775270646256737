# frozen_string_literal: true

# A webhook receiver in one file, with nothing but Ruby's standard library (2.7 or newer).
#
#     WEBHOOK_SECRET=whsec_… PORT=9000 ruby receiver.rb
#
# It checks both signatures, takes each event once, answers at once and does the work afterwards. One signature is enough
# in practice: webhook-signature, because it covers the time too, so that a recorded request cannot be sent again later.
# In an application keep `verify`, and let Rack or Rails speak HTTP: it needs the raw body, `request.body.read`.

require "json"
require "openssl"
require "socket"

TOLERANCE_SECONDS = 300
LARGEST_BODY = 1024 * 1024
REMEMBERED = 10_000

# During a rotation the variable may hold two secrets, separated by a comma.
SECRETS = ENV.fetch("WEBHOOK_SECRET", "").split(",").map(&:strip).reject(&:empty?)

# A request that is not from PunchConnect, or not as it was sent: the status and the reason.
class Refused < StandardError
  attr_reader :status

  def initialize(status, why)
    super(why)
    @status = status
  end
end

# Check both signatures over the raw body, before anything reads it. The names of `headers` are in lower case.
def verify(headers, body)
  %w[webhook-id webhook-timestamp webhook-signature x-punchconnect-signature].each do |name|
    raise Refused.new(400, "the header #{name} is missing") if headers.fetch(name, "").empty?
  end
  id, timestamp = headers.values_at("webhook-id", "webhook-timestamp")
  raise Refused.new(400, "webhook-timestamp is not a number") unless timestamp.match?(/\A[0-9]{1,12}\z/)
  if (Time.now.to_i - timestamp.to_i).abs > TOLERANCE_SECONDS
    raise Refused.new(401, "signed too long ago, or one of the two clocks is wrong")
  end

  # Standard Webhooks: the key is what the base64 after `whsec_` stands for. Any of the listed signatures may match.
  standard = SECRETS.map do |secret|
    key = secret.delete_prefix("whsec_").unpack1("m")
    "v1,#{[OpenSSL::HMAC.digest("SHA256", key, "#{id}.#{timestamp}.".b + body)].pack("m0")}"
  end
  unless matches(standard, headers["webhook-signature"].split(" "))
    raise Refused.new(401, "webhook-signature does not match")
  end

  # X-PunchConnect-Signature: the key is the secret's text, `whsec_` included. While a rotation lasts it is made with the
  # previous secret; who has only the new one relies on the check above.
  return if headers["x-punchconnect-signature-key"] == "previous" && SECRETS.length == 1

  plain = SECRETS.map { |secret| OpenSSL::HMAC.hexdigest("SHA256", secret, body) }
  return if matches(plain, [headers["x-punchconnect-signature"]])

  raise Refused.new(401, "x-punchconnect-signature does not match")
end

def matches(expected, given)
  expected.product(given).any? { |one, other| OpenSSL.secure_compare(one, other) }
end

# Every event once. A real receiver has a unique column for `webhook-id`, in the transaction that does the work.
SEEN = {} # rubocop:disable Style/MutableConstant
TAKING = Mutex.new
EVENTS = Queue.new

def take(id, event)
  TAKING.synchronize do
    return false if SEEN.key?(id)

    SEEN[id] = true
    SEEN.shift if SEEN.length > REMEMBERED
  end
  EVENTS << event
  true
end

# What the business does with an event: here, a line on the screen.
def work(event)
  puts describe(event)
end

def describe(event)
  return "#{event["type"]}  #{event["id"]}" unless event["type"].start_with?("punch.")

  punch = event["data"]
  who = punch.dig("employee", "name") || "unknown"
  where = punch.dig("device", "name") || punch.dig("device", "serial_number")
  "#{event["type"]}  #{punch["local_time"]} #{punch["time_zone"]}  #{punch["direction"]}  " \
    "#{who} (PIN #{punch["pin"]})  #{where}"
end

def receive(headers, body)
  verify(headers, body)
  event = JSON.parse(body.dup.force_encoding("UTF-8"))
  # A repeat is a success too: PunchConnect only needs to know that it can stop sending.
  take(headers["webhook-id"], event) ? "ok" : "duplicate"
rescue JSON::ParserError
  raise Refused.new(400, "the body is not JSON")
end

# As much HTTP as it takes to try this out.

def read_body(socket, headers)
  length = headers.fetch("content-length", "")
  if headers.key?("transfer-encoding") || !length.match?(/\A[0-9]{1,12}\z/)
    raise Refused.new(411, "content-length is missing")
  end
  raise Refused.new(413, "the body is too large") if length.to_i > LARGEST_BODY

  socket.read(length.to_i) || +""
end

def serve(socket)
  while (line = socket.gets("\r\n", 8192))
    headers = {}
    while (header = socket.gets("\r\n", 8192)) && header != "\r\n"
      name, value = header.chomp.split(":", 2)
      headers[name.downcase] = value.to_s.strip
    end
    status = 200
    begin
      raise Refused.new(405, "webhooks are sent with POST") unless line.start_with?("POST ")

      body = read_body(socket, headers)
      text = receive(headers, body)
    rescue Refused => e
      status = e.status
      text = e.message
    end
    # What was not read is not worth reading: the connection goes.
    close = body.nil?
    socket.write("HTTP/1.1 #{status} #{status}\r\nContent-Type: text/plain; charset=utf-8\r\n" \
                 "Content-Length: #{text.bytesize}\r\n#{"Connection: close\r\n" if close}\r\n#{text}")
    break if close
  end
rescue SystemCallError, IOError
  nil # the other end went away
ensure
  socket.close
end

if SECRETS.empty? || !SECRETS.all? { |secret| secret.match?(%r{\Awhsec_[A-Za-z0-9+/]+={0,2}\z}) }
  warn "Set WEBHOOK_SECRET to the secret that webhookEndpointCreate answered with: whsec_…"
  exit 2
end
$stdout.sync = true
$stdout.set_encoding("UTF-8")
host = ENV.fetch("HOST", "127.0.0.1")
server = TCPServer.new(host, ENV.fetch("PORT", "9000").to_i)
Thread.new { loop { work(EVENTS.pop) } }
puts "listening on http://#{host}:#{server.addr[1]}/"
trap("TERM") { exit }
loop { Thread.new(server.accept) { |socket| serve(socket) } }
