-- udp_echo: sends each datagram back to where it came from. The bytes go out of the very block they were received into.
--
--   rille run scripts/udp_echo.lua --listen udp://127.0.0.1:7000
--   printf 'hello' | nc -u -w1 127.0.0.1 7000

return function(dgram)
  dgram:reply(dgram)
end
