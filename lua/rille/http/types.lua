-- types: the media type of a file by the end of its name (the IANA registry; text is UTF-8).

local types = {}

local by_end = {
  avif = "image/avif", bin = "application/octet-stream", bmp = "image/bmp", css = "text/css; charset=utf-8",
  csv = "text/csv; charset=utf-8", gif = "image/gif", gz = "application/gzip", htm = "text/html; charset=utf-8",
  html = "text/html; charset=utf-8", ico = "image/vnd.microsoft.icon", jpeg = "image/jpeg", jpg = "image/jpeg",
  js = "text/javascript; charset=utf-8", json = "application/json", lua = "text/plain; charset=utf-8",
  map = "application/json", md = "text/markdown; charset=utf-8", mjs = "text/javascript; charset=utf-8",
  mp3 = "audio/mpeg", mp4 = "video/mp4", ogg = "audio/ogg", otf = "font/otf", pdf = "application/pdf", png = "image/png",
  svg = "image/svg+xml", tar = "application/x-tar", ttf = "font/ttf", txt = "text/plain; charset=utf-8",
  wasm = "application/wasm", wav = "audio/wav", webm = "video/webm", webp = "image/webp", woff = "font/woff",
  woff2 = "font/woff2", xml = "application/xml", zip = "application/zip",
}

function types.of(path)
  local ending = path:match("%.([%w]+)$")
  return ending and by_end[ending:lower()] or "application/octet-stream"
end

return types
