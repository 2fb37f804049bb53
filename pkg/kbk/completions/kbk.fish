# fish completion of kbk and of all kbk-* commands. Each command says itself what may stand
# in a place: flags, topics, remotes, profiles.

function __kbk_complete
    set -l words (commandline -opc)
    set -l last (commandline -ct | string unescape)
    for line in (command $words[1] __complete $words[2..-1] "$last" 2>/dev/null)
        if test "$line" = :files
            set -l flag (string match -r -- '^-[^=]*=' "$last")
            for file in (__fish_complete_path (string replace -r -- '^-[^=]*=' '' "$last"))
                echo "$flag$file"
            end
        else
            echo $line
        end
    end
end

for command in kbk kbk-catalog kbk-cluster kbk-fetch kbk-filter kbk-import kbk-offsets kbk-pack kbk-produce kbk-pull kbk-push
    complete -c $command -f -a '(__kbk_complete)'
end
