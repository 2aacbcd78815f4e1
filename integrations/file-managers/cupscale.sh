#!/bin/sh
# Part of the integration of cupscale-fast @version@ with @integration@.
# Enlarges the pictures that a file manager hands over, four times unless a --scale comes with them; each output appears
# beside its picture. With zenity there is a progress bar with a button that cancels; a job that is cancelled goes on when
# it is started again.

program=${CUPSCALE_FAST:-cupscale-fast}
command -v "$program" >/dev/null 2>&1 || program='@program@'

# True if a command is there, and a screen for it.
can_show() {
    [ -n "$DISPLAY$WAYLAND_DISPLAY" ] && command -v "$1" >/dev/null 2>&1
}

tell() {
    if can_show notify-send; then
        notify-send --app-name=Cupscale --icon=image-x-generic Cupscale "$1"
    elif can_show kdialog; then
        kdialog --title Cupscale --passivepopup "$1" 10
    else
        printf '%s\n' "$1"
    fi
}

complain() {
    if can_show zenity; then
        zenity --error --title=Cupscale --no-markup --text="$1" 2>/dev/null
    elif can_show kdialog; then
        kdialog --title Cupscale --error "$1"
    elif can_show notify-send; then
        notify-send --app-name=Cupscale --urgency=critical Cupscale "$1"
    else
        printf '%s\n' "$1" >&2
    fi
}

# The number behind a field's name in a line of JSON.
number() {
    digits=${line#*\"$1\":}
    digits=${digits%%[!0-9]*}
    printf '%s' "${digits:-0}"
}

# Reads the program's lines; writes percentages and words as zenity wants them, and keeps the errors.
follow() {
    index=1 count=1
    while IFS= read -r line; do
        case $line in
        '{'*'"event":"file"'*) index=$(number index) count=$(number count) ;;
        '{'*'"event":"progress"'*)
            case $line in
            *'"stage":"caption"'*) start=0 share=2 words=describing ;;
            *'"stage":"encode"'*) start=2 share=10 words=reading ;;
            *'"stage":"denoise"'*) start=12 share=68 words=painting ;;
            *) start=80 share=19 words=finishing ;;
            esac
            total=$(number total)
            [ "$total" -gt 0 ] || total=1
            of_file=$((start + share * $(number done) / total))
            printf '%s\n# Picture %s of %s: %s\n' \
                $(((100 * (index - 1) + of_file) / count)) "$index" "$count" "$words"
            ;;
        '{'*) ;;
        *) printf '%s\n' "$line" >>"$folder/errors" ;;
        esac
    done
    echo 100
}

[ $# -gt 0 ] || {
    complain "Choose pictures first, and open them with Cupscale."
    exit 2
}
folder=$(mktemp -d "${TMPDIR:-/tmp}/cupscale-XXXXXX") || exit 1
trap 'rm -rf "$folder"' EXIT
mkfifo "$folder/lines"
: >"$folder/errors"
case " $* " in
*' --scale '*) ;;
*) set -- --scale 4 "$@" ;;
esac
# The shell has what it starts in the background ignore SIGINT; SIGTERM means the same to the program.
"$program" --progress json "$@" >/dev/null 2>"$folder/lines" &
job=$!
if can_show zenity; then
    follow <"$folder/lines" | {
        zenity --progress --title=Cupscale --text=starting --auto-close 2>/dev/null || kill -TERM "$job" 2>/dev/null
    }
else
    follow <"$folder/lines" >/dev/null
fi
wait "$job"
code=$?
case $code in
0) tell "done" ;;
3 | 130) ;;
*) complain "$(tail -n 5 "$folder/errors" | sed 's/^cupscale-fast: //')" ;;
esac
exit "$code"
