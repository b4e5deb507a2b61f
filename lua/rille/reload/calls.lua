-- calls: what a Lua state that takes over calls of the core first. The system looks a name up under a lock of the process; who holds that
-- may have lost its processor, a thread that stages to start with, and a loop would wait for it. So this is done before the state is
-- on its loop. What is missing here is looked up there.

local C = require "rille.core"

local calls = {}

local NAMES = {
  conn = [[
    abandon abort admit begin bind close done enter fault flush free hand_on holding id idle_done input is_active is_http know leave len
    luggage luggage_key next of opened output pause peer raise read read_until refuse release returns rouse service set shutdown slot
    throttle unpacked unwant wait_output want write write_buffer write_view
  ]],
  http = [[
    begin body done failed field_at get_field header is_sent method minor part read send send_buffer send_view set_field set_status status
    write write_buffer write_view
  ]],
  state = [[
    bequeath explain hooks_done inbox inheritance is_incoming is_renewed leave_behind loop refuse_start started
  ]],
  listener = "address close_by open udp",
  holding = "add_buffer add_slice buffer free new slice",
  linkbuffer = "free malloc_len peek skip",
  loop = "clock exit place",
  job = "is_io take",
  service = "new set set_codec set_tls",
  watch = "start stop",
}
local OTHERS = "rille_given_warn rille_now rille_post_take rille_process_count rille_process_number rille_slice_is_retained"

function calls.look_up()
  for noun, verbs in pairs(NAMES) do
    for verb in verbs:gmatch("%S+") do local _ = C["rille_" .. noun .. "_" .. verb] end
  end
  for name in OTHERS:gmatch("%S+") do local _ = C[name] end
end

return calls
