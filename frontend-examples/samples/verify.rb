# A webhook's signature: body on stdin, headers in the environment.
require "openssl"

body = $stdin.binmode.read
key = ENV.fetch("WEBHOOK_SECRET").delete_prefix("whsec_").unpack1("m")
message = "#{ENV.fetch("WEBHOOK_ID")}.#{ENV.fetch("WEBHOOK_TIMESTAMP")}.".b + body
expected = "v1," + [OpenSSL::HMAC.digest("SHA256", key, message)].pack("m0")
given = ENV.fetch("WEBHOOK_SIGNATURE").split # two while a rotation lasts
fresh = (Time.now.to_i - ENV.fetch("WEBHOOK_TIMESTAMP").to_i).abs < 300
good = given.any? { |each| each.bytesize == expected.bytesize && OpenSSL.fixed_length_secure_compare(each, expected) }
puts(fresh && good ? "good" : "refused")
