# A web app that verifies tokens by the daemon's JWKS, with ruby-jwt: `ruby app.rb 8001`.
require "json"
require "jwt"
require "net/http"
require "webrick"

# The ring's public keys. They are fetched in the background: no request waits for them, and while
# the daemon is away, they stay as they were. `max_age` is jwks_max_age of the ring, or less: so
# long a revoked key is still believed here.
class JWKS
  def initialize(url, max_age)
    @url = URI(url)
    @keys = fetch
    Thread.new do
      loop do
        sleep max_age / 2.0
        @keys = fetch
      rescue StandardError => e
        warn "the JWKS cannot be had: #{e.message}"
      end
    end
  end

  # The key of that name. An unknown one is no reason to fetch them anew: a key is public for longer
  # than max_age before it signs.
  def [](kid)
    @keys[kid] or raise JWT::DecodeError, "#{kid.inspect}: no such key"
  end

  private

  def fetch
    answer = Net::HTTP.start(@url.host, @url.port, use_ssl: @url.scheme == "https",
                             open_timeout: 5, read_timeout: 5) { |http| http.get(@url.path) }
    raise "it answers #{answer.code}" unless answer.is_a?(Net::HTTPOK)

    JSON.parse(answer.body).fetch("keys").to_h { |key| [key["kid"], key] }
  end
end

JWKS_URL = ENV.fetch("JWKS_URL", "http://127.0.0.1:9465/.well-known/jwks.json")
KEYS = JWKS.new(JWKS_URL, Integer(ENV.fetch("JWKS_MAX_AGE", "300")))

# Whose token it is.
def verify(token)
  _, header = JWT.decode(token, nil, false)
  raise JWT::DecodeError, "no header" unless header.is_a?(Hash)
  key = KEYS[header["kid"]]
  # The key's algorithm, and no other: asked here, for ruby-jwt 2.5 fails with a NoMethodError where a
  # token has none, or has ES256 and names an RSA key.
  raise JWT::IncorrectAlgorithm, "not the key's algorithm" unless header["alg"] == key["alg"]

  claims, = JWT.decode(
    token, JWT::JWK.import(key).keypair, true,
    algorithm: key["alg"],
    required_claims: %w[exp sub],
    leeway: 60 # clock_skew of the ring
  )
  claims["sub"]
end

server = WEBrick::HTTPServer.new(BindAddress: "127.0.0.1", Port: Integer(ARGV.fetch(0, "8001")))
server.mount_proc "/" do |request, response|
  bearer = request["Authorization"].to_s[/\ABearer (\S+)\z/i, 1]
  begin
    response.body = "hello #{verify(bearer)}"
  rescue JWT::DecodeError => e # no token came along, a bad one, or one by EdDSA
    warn "refused: #{e.message}"
    response.status = 401
    response.body = "invalid token"
  end
end
trap("TERM") { server.shutdown }
server.start
