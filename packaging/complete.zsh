# zsh -f packaging/complete.zsh COMPLETION-FILE LINE
# Types LINE and a TAB into an interactive zsh, and prints what became of it.
zmodload zsh/zpty
zpty shell zsh -f -i
say() { zpty -w shell "$1" }
say 'PROMPT= PS2= RPROMPT=; unsetopt prompt_cr prompt_sp; stty -echo'
say 'autoload -Uz compinit && compinit -D -u'
say "source ${(q)1}"
say 'show() { zle complete-word; zle -I; print -r -- "<<$BUFFER>>"; BUFFER= }'
say 'zle -N show; bindkey "^I" show'
say 'print RE""ADY'
local out
zpty -r -m shell out '*READY*' || exit 1
zpty -w -n shell "$2"$'\t'
zpty -r -m shell out '*<<*>>*' || exit 1
print -r -- ${${out##*<<}%%>>*}
zpty -d shell
