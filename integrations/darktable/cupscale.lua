-- Part of the integration of cupscale-fast @version@ with @integration@.
--[[
Enlarges pictures with the program `cupscale-fast`, in two ways:

* lighttable, export, target storage "Cupscale": what is exported is enlarged, and joins the collection beside its
  original, grouped with it;
* lighttable, module "Cupscale", button "enlarge": does the same for the selected pictures, as TIFF of 16 bits with the
  colour profile of the export module.

A job in the lower left shows the progress and can be cancelled.
]]

local dt = require "darktable"

local PROGRAM = "@program@" -- where the program was when it wrote this file
local MODULE = "cupscale"
local FORMATS = { png = true, jpg = true, jpeg = true, tif = true, tiff = true, webp = true }
-- Share of a job's time before a stage begins, and within it.
local STAGES = { caption = { 0, 0.02 }, encode = { 0.02, 0.1 }, denoise = { 0.12, 0.68 }, decode = { 0.8, 0.2 } }

dt.configuration.check_version(..., { 7, 0, 0 }, { 8, 0, 0 }, { 9, 0, 0 })

local on_windows = dt.configuration.running_os == "windows"

-- A word of a shell's command line.
local function quoted(text)
  if on_windows then
    return '"' .. text:gsub('"', "") .. '"'
  end
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

local function exists(path)
  local file = io.open(path, "rb")
  if file then
    file:close()
  end
  return file ~= nil
end

local function content(path)
  local file = io.open(path, "rb")
  if not file then
    return ""
  end
  local text = file:read("a")
  file:close()
  return text
end

-- $CUPSCALE_FAST, else what is on the path, else the program that wrote this file.
local function program()
  local named = os.getenv("CUPSCALE_FAST")
  if named and named ~= "" then
    return named
  end
  for folder in (os.getenv("PATH") or ""):gmatch(on_windows and "[^;]+" or "[^:]+") do
    if exists(folder .. (on_windows and "\\cupscale-fast.exe" or "/cupscale-fast")) then
      return "cupscale-fast"
    end
  end
  return exists(PROGRAM) and PROGRAM or "cupscale-fast"
end

local function preference(name)
  return dt.preferences.read(MODULE, name, "string")
end

-- Options of the program as the module's fields say them; an empty field is the program's own choice.
local function options()
  local line = ""
  local factor = tonumber(preference("scale")) or 2
  line = line .. " --scale " .. quoted(string.format("%g", factor))
  for _, name in ipairs { "prompt", "strength", "model" } do
    local value = preference(name)
    if value ~= "" then
      line = line .. " " .. quoted("--" .. name .. "=" .. value)
    end
  end
  return line
end

-- The last progress in the program's lines, 0 to 1.
local function fraction(lines)
  local share = 0
  for line in lines:gmatch("{[^\r\n]*") do
    local place = STAGES[line:match('"stage":"(%a+)"') or ""]
    local done, total = line:match('"done":(%d+)'), line:match('"total":(%d+)')
    if place and done and total and line:find('"event":"progress"', 1, true) then
      share = place[1] + place[2] * tonumber(done) / math.max(tonumber(total), 1)
    end
  end
  return share
end

-- The error in the program's lines, without its name before it.
local function complaint(lines)
  local found = nil
  for line in lines:gmatch("[^\r\n]+") do
    if line:sub(1, 1) ~= "{" then
      found = line
    end
  end
  return found and found:gsub("^cupscale%-fast: ", "") or nil
end

-- Runs the program on a file. Returns nothing where it did well, else what was wrong, in a line.
local function run(input, output, title)
  local line = quoted(program()) .. " " .. quoted(input) .. " -o " .. quoted(output) .. options()
  if on_windows then
    if dt.control.execute(line .. " --quiet") ~= 0 then
      return "cupscale-fast could not enlarge it"
    end
    return nil
  end
  local log, code, pid = output .. ".log", output .. ".code", output .. ".pid"
  local inner = "echo $$ >" .. quoted(pid) .. "; exec " .. line .. " --progress json </dev/null >/dev/null 2>" .. quoted(log)
  os.execute("{ sh -c " .. quoted(inner) .. "; echo $? >" .. quoted(code) .. "; } &")
  local is_cancelled = false
  local function cancel()
    is_cancelled = true
    os.execute("kill -TERM $(cat " .. quoted(pid) .. ") 2>/dev/null")
  end
  local job = dt.gui and dt.gui.create_job and dt.gui.create_job(title, true, cancel)
  while not content(code):find("\n") do
    dt.control.sleep(200)
    if job and job.valid then
      job.percent = fraction(content(log))
    end
    if dt.control.ending and not is_cancelled then
      cancel()
    end
  end
  if job and job.valid then
    job.valid = false
  end
  local ended, lines = tonumber(content(code)), content(log)
  for _, file in ipairs { log, code, pid } do
    os.remove(file)
  end
  if is_cancelled then
    return "cancelled"
  elseif ended ~= 0 then
    return complaint(lines) or ("cupscale-fast ended with code " .. tostring(ended))
  end
  return nil
end

-- A name beside the original that is free.
local function free_name(image, extension)
  local stem = image.path .. "/" .. image.filename:gsub("%.[^.]*$", "") .. "_cupscale"
  local name, count = stem .. "." .. extension, 1
  while exists(name) do
    name, count = string.format("%s_%02d.%s", stem, count, extension), count + 1
  end
  return name
end

-- Enlarges an exported file beside its original, and brings it into the collection. Returns the new image, or nil and
-- what was wrong.
local function enlarge(image, exported)
  local extension = exported:match("%.([^.]*)$"):lower()
  local output = free_name(image, extension)
  local wrong = run(exported, output, "Cupscale: " .. image.filename)
  os.remove(exported)
  if wrong then
    dt.print("Cupscale: " .. image.filename .. ": " .. wrong)
    dt.print_error("cupscale: " .. image.filename .. ": " .. wrong)
    return nil, wrong
  end
  local new = dt.database.import(output)
  if not new then
    return nil, "darktable could not import " .. output
  end
  new:group_with(image.group_leader)
  for _, tag in ipairs(dt.tags.get_tags(image)) do
    if not tag.name:find("^darktable|") then
      dt.tags.attach(tag, new)
    end
  end
  return new
end

-- Enlarges pictures as TIFF of 16 bits; returns how many.
local function enlarge_images(images)
  local done = 0
  for _, image in ipairs(images) do
    if dt.control.ending then
      break
    end
    local format = dt.new_format("tiff")
    format.bpp = 16
    format.max_width, format.max_height = 0, 0
    local exported = os.tmpname()
    os.remove(exported)
    exported = exported .. ".tif"
    format:write_image(image, exported, false)
    if enlarge(image, exported) then
      done = done + 1
    end
  end
  dt.print(string.format("Cupscale: %d of %d enlarged", done, #images))
  return done
end

dt.register_storage(
  MODULE,
  "Cupscale",
  function(_, image, _, filename)
    enlarge(image, filename)
  end,
  nil,
  function(_, format)
    return FORMATS[format.extension:lower()] ~= nil
  end
)

for _, each in ipairs {
  { "scale", "2", "scale", "factor for both sides" },
  { "prompt", "", "prompt", "what the pictures show" },
  { "strength", "", "strength", "how much is repainted, 0 to 1; empty: the model's own choice" },
  { "model", "", "model", "name or file of a model; empty: the embedded one" },
} do
  dt.preferences.register(MODULE, each[1], "string", "Cupscale: " .. each[3], each[4], each[2])
end

if dt.gui then
  local box = dt.new_widget("box") { orientation = "vertical" }
  for _, name in ipairs { "scale", "prompt", "strength", "model" } do
    local entry = dt.new_widget("entry") {
      text = preference(name),
      placeholder = name,
      tooltip = name,
      editable = true,
      is_password = false,
    }
    entry.reset_callback = function(self)
      self.text = name == "scale" and "2" or ""
    end
    box[#box + 1] = dt.new_widget("label") { label = name, halign = "start" }
    box[#box + 1] = entry
  end
  box[#box + 1] = dt.new_widget("button") {
    label = "enlarge",
    tooltip = "enlarge the selected pictures; each joins the collection beside its original",
    clicked_callback = function()
      for index, name in ipairs { "scale", "prompt", "strength", "model" } do
        dt.preferences.write(MODULE, name, "string", box[2 * index].text)
      end
      enlarge_images(dt.gui.action_images)
    end,
  }
  dt.register_lib(MODULE, "Cupscale", true, false, {
    [dt.gui.views.lighttable] = { "DT_UI_CONTAINER_PANEL_RIGHT_CENTER", 20 },
  }, box, nil, nil)
end

return { enlarge = enlarge, enlarge_images = enlarge_images }
