# bash packaging/complete.bash COMPLETION-FILE WORD...
# Prints what bash would offer for the last word.
# shellcheck source=/dev/null
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
COMP_LINE="$*"
COMP_POINT=${#COMP_LINE}
_gateway
printf '%s\n' "${COMPREPLY[@]}"
