# bash completion of kbk and of all kbk-* commands. Each command says itself what may stand
# in a place: flags, topics, remotes, profiles.

_kbk() {
    local rest=${COMP_LINE:0:COMP_POINT} words=() word i
    # bash breaks words at the characters of COMP_WORDBREAKS, : and = among them: join what
    # no space separates.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $i = 0 || $rest = [[:space:]]* ]]; then
            rest=${rest#"${rest%%[![:space:]]*}"}
            words+=("")
        fi
        [[ $rest = "$word"* ]] || word=$rest # the cursor is inside of it
        words[${#words[@]} - 1]+=$word
        rest=${rest#"$word"}
    done
    words=("${words[@]//[\'\"\\]/}")
    local last=${words[${#words[@]} - 1]} line broken candidates=() files=

    while IFS= read -r line; do
        if [[ $line = :files ]]; then
            files=1
        else
            candidates+=("${line%%$'\t'*}")
        fi
    done < <("${words[0]}" __complete "${words[@]:1}" 2>/dev/null)
    if [[ $files ]]; then
        local prefix=
        [[ $last = -*=* ]] && prefix=${last%%=*}=
        while IFS= read -r line; do
            [[ -d $line ]] && line+=/
            candidates+=("$prefix$line")
        done < <(compgen -f -- "${last#"$prefix"}")
    fi
    # What stands before the last break is not replaced.
    broken=${last%"${last##*[$COMP_WORDBREAKS]}"}
    COMPREPLY=()
    for line in "${candidates[@]}"; do
        line=${line#"$broken"}
        printf -v line %q "$line"
        [[ $line = \\~* ]] && line=${line#\\}
        COMPREPLY+=("$line")
    done
    if [[ ${#COMPREPLY[@]} = 1 && ${COMPREPLY[0]} = *[:=/] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}

complete -F _kbk kbk kbk-catalog kbk-cluster kbk-fetch kbk-filter kbk-import kbk-offsets kbk-pack kbk-produce kbk-pull kbk-push
