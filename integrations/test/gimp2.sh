. /test/common.sh
gimp-console --version
cupscale-fast integrate gimp2
pictures

cat >console.scm <<'P'
(define (load path) (car (gimp-file-load RUN-NONINTERACTIVE path path)))
(define (layer image) (car (gimp-image-get-active-drawable image)))
(define (save image path) (file-png-save2 RUN-NONINTERACTIVE image (layer image) path path 0 1 0 0 0 1 0 0 1))
(define (cupscale image result scale prompt strength model seed)
  (car (plug-in-cupscale RUN-NONINTERACTIVE image (layer image) result scale prompt strength model seed)))
(define (say . words) (for-each display words) (newline))
(define (expect what found wanted)
  (say (if (equal? found wanted) "ok: " "NOT: ") what ": " found))
(define (size image) (list (car (gimp-image-width image)) (car (gimp-image-height image))))

(define image (load "/job/alpha.png"))
(define count (car (gimp-image-list)))
(gimp-image-select-ellipse image CHANNEL-OP-REPLACE 20 10 40 40)
(save image "/job/before.png")
(expect "in place" (cupscale image 2 1 "" 0 "" 0) -1)
(save image "/job/after.png")
(expect "transparency is not locked" (car (gimp-layer-get-lock-alpha (layer image))) FALSE)
(define made (cupscale image 0 2 "a bird" 0.3 "" 5))
(expect "a new image of the selection, 2 x" (size made) '(80 80))
(expect "with transparency" (car (gimp-drawable-has-alpha (layer made))) TRUE)
(gimp-image-delete made)
(define made (cupscale image 3 4 "" 0 "" 0))
(expect "a piece of the middle, 4 x" (size made) '(160 160))
(gimp-image-delete made)
(save image "/job/again.png")
(gimp-selection-none image)
(cupscale image 1 1.7 "" 0 "" 0)
(expect "the image is 1.7 x" (size image) '(163 109))
(expect "so is its layer" (car (gimp-drawable-width (layer image))) 163)
(expect "no image is left" (car (gimp-image-list)) (+ count 0))

; 16 and 32 bits, grey, and a layer that is smaller than the image and not at its corner
(define (of-kind precision path)
  (define image (load "/job/alpha.png"))
  (if (= precision -1)
      (gimp-image-convert-grayscale image)
      (gimp-image-convert-precision image precision))
  (gimp-layer-set-offsets (layer image) 7 -5)
  (gimp-image-select-ellipse image CHANNEL-OP-REPLACE 27 5 40 40)
  (save image (string-append "/job/" path "-before.png"))
  (cupscale image 2 1 "" 0 "" 0)
  (save image (string-append "/job/" path "-after.png"))
  (gimp-image-delete image))
(of-kind PRECISION-U16-GAMMA "16")
(of-kind PRECISION-FLOAT-LINEAR "float")
(of-kind -1 "grey")

; The script is in the menu; an error ends it, in a line.
(expect "the dialog is registered" (car (gimp-procedural-db-proc-exists "script-fu-cupscale")) TRUE)
(say "done")
(cupscale image 2 1 "" 0 "no-such-model" 0)
P
gimp-console -idf -b '(load "/job/console.scm")' -b '(gimp-quit 1)' >console.log 2>&1 || true
grep -E '^(ok|NOT)' console.log
! grep -q '^NOT' console.log || fail "see console.log"
grep -q '^done' console.log || fail "see console.log"
grep -q 'no-such-model: no such file or folder, and no such model' console.log || fail "no error in console.log"
python3 /test/compare.py before.png after.png | tee compared
python3 /test/compare.py --same after.png again.png
for kind in 16 float grey; do
    python3 /test/compare.py $kind-before.png $kind-after.png | sed "s/^/$kind: /"
done
nothing_left

# With a screen: Script-Fu's dialog, found by GIMP's search for actions, and one step of undo, which takes the star from the
# window's title.
screen
gimp -ns alpha.png >screen.log 2>&1 &
picture=$(window 'alpha')
sleep 5
xdotool windowactivate "$picture"
sleep 1
xdotool key slash
sleep 2
xdotool type --delay 100 Cupscale
sleep 2
import -window root search.png
xdotool key Return
dialog=$(window 'Script-Fu: Cupscale')
sleep 2
xdotool windowactivate "$dialog"
sleep 1
xdotool key Down Down
sleep 1
import -window root dialog.png
xdotool key alt+o
window '[*].*alpha' >/dev/null
sleep 2
import -window root repainted.png
xdotool windowactivate "$picture"
sleep 1
xdotool key ctrl+z
sleep 2
! xdotool search --onlyvisible --name '[*].*alpha' || fail "one step of undo does not take it back"
xdotool key ctrl+y
window '[*].*alpha' >/dev/null
kill %3 2>/dev/null || true
nothing_left

cupscale-fast integrate gimp2 --remove
[ -z "$(find "$HOME/.config/GIMP" -iname '*cupscale*')" ] || fail "files are left"
echo "$(gimp-console --version 2>/dev/null | tail -n 1): $(cat compared); one step of undo"
