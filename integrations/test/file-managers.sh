. /test/common.sh
for name in nautilus thunar digikam dolphin; do
    cupscale-fast integrate $name
done
pictures
mkdir "a folder"
cp plain.png "a folder/it's \$(one) & <two>.png"
cp plain.png "a folder/three.png"
data=$HOME/.local/share
cd "a folder"

# As Nautilus starts a script: in the folder, with the names as arguments. Without a screen there is no bar.
"$data/nautilus/scripts/Enlarge with Cupscale" "it's \$(one) & <two>.png" three.png | tee ../said
grep -qx "done" ../said || fail "no word at the end"
for name in "it's \$(one) & <two>_4x.png" three_4x.png; do
    [ "$(identify -format '%wx%h' "$name")" = 384x256 ] || fail "$name is not four times as large"
done
rm -- *_4x.png

# As GIO starts a desktop entry, which is how Thunar does it.
desktop-file-validate "$data/Thunar/sendto/cupscale.desktop" "$data/applications/cupscale-fast.desktop"
gio launch "$data/Thunar/sendto/cupscale.desktop" "it's \$(one) & <two>.png" three.png
appears three_4x.png
appears "it's \$(one) & <two>_4x.png"
nothing_left
rm -- *_4x.png

# "Open with": the entry is found, and does not become what opens pictures.
update-desktop-database "$data/applications"
gio mime image/png >../kinds
! grep -q cupscale ../kinds || fail "it may open pictures by default: $(cat ../kinds)"
gio launch "$data/applications/cupscale-fast.desktop" three.png
appears three_4x.png
nothing_left
rm three_4x.png

# What Dolphin's menu runs, with the names in place of %F.
line=$(sed -n '/enlarge2\]/,$s/^Exec=//p' "$data/kio/servicemenus/cupscale.desktop" | head -n 1)
sh -c "${line/\%F/three.png}"
appears three_2x.png
rm three_2x.png

# An error is told in a line, and the code is the program's.
echo nonsense >broken.png
code=0
"$data/nautilus/scripts/Enlarge with Cupscale" broken.png 2>../error || code=$?
[ $code = 1 ] && grep -q 'broken.png: not a readable image' ../error || fail "no error: $code, $(cat ../error)"
cat ../error
rm broken.png

# With a screen: zenity's bar, and its button that cancels.
screen
python3 -c 'from PIL import Image; Image.open("three.png").resize((640, 480)).save("large.png")'
"$data/nautilus/scripts/Enlarge with Cupscale" large.png &
script=$!
bar=$(window '^Cupscale$')
sleep 6
import -window root ../bar.png
xdotool windowactivate "$bar"
sleep 1
xdotool key Escape
code=0
wait $script || code=$?
[ $code = 130 ] || fail "the script that was cancelled ended with $code"
[ ! -e large_4x.png ] || fail "a job that was cancelled has an output"
nothing_left

# Thunar's own menu.
rm -- large.png "it's \$(one) & <two>.png"
thunar "$PWD" >../thunar.log 2>&1 &
browser=$(window 'a folder')
sleep 2
xdotool windowactivate "$browser"
sleep 1
xdotool key ctrl+a
sleep 1
xdotool key shift+F10
sleep 2
xdotool key Down Down Down Right
sleep 2
import -window root ../thunar.png
xdotool key Down Return
appears three_4x.png
nothing_left
kill %4 2>/dev/null || true

# Nautilus's own menu, by the places of its entries below the selected picture.
rm three_4x.png
export GSK_RENDERER=cairo XDG_RUNTIME_DIR=/tmp/run
mkdir -m 700 "$XDG_RUNTIME_DIR"
dbus-run-session -- nautilus "$PWD" >../nautilus.log 2>&1 &
for _ in $(seq 60); do
    sleep 1
    browser=$(xdotool search --onlyvisible --class nautilus 2>/dev/null | tail -n 1) || true
    [ -n "$browser" ] && break
done
sleep 10
xdotool windowactivate "$browser"
sleep 1
xdotool key ctrl+a
sleep 1
xdotool key shift+F10
sleep 2
eval "$(xdotool getwindowgeometry --shell "$browser")"
import -window root ../nautilus.png
xdotool mousemove $((X + 279)) $((Y + 291)) click 1
sleep 2
import -window root ../nautilus2.png
xdotool mousemove $((X + 309)) $((Y + 258)) click 1
appears three_4x.png
nothing_left
echo "scripts and desktop entries; Thunar $(dpkg-query -W -f '${Version}' thunar), Nautilus $(dpkg-query -W -f '${Version}' nautilus)"
