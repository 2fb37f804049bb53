#!/usr/bin/env bash
# Installs bin/kbk.deb as a user does, runs what it installs, and removes it; and runs the
# commands of bin/kbk-image.tar in a root of their own. It takes Debian, and root.
set -euo pipefail
cd "$(dirname "$0")/../.."

root=$(mktemp -d)
trap 'dpkg -r kbk >/dev/null 2>&1; rm -rf "$root"' EXIT
fail() { echo "package.sh: $*" >&2; exit 1; }

dpkg -i bin/kbk.deb >/dev/null
size=$(dpkg-query -W -f '${Installed-Size}' kbk) # KiB
[ "$size" -le 117187 ] || fail "the package takes $size KiB installed, over 120 MB"
commands=(kbk kbk-catalog kbk-cluster kbk-fetch kbk-filter kbk-import kbk-offsets kbk-pack kbk-produce kbk-pull kbk-push)
for c in "${commands[@]}"; do
    env -i "/usr/bin/$c" --version | grep -q "^$c version .* (commit ........" || fail "/usr/bin/$c --version: $("/usr/bin/$c" --version)"
    [ -e "/usr/share/man/man1/$c.1" ] || fail "there is no page of $c"
    grep -q "$c" "/usr/share/bash-completion/completions/$c" || fail "bash completes no $c"
    grep -q "$c" "/usr/share/fish/vendor_completions.d/$c.fish" || fail "fish completes no $c"
done
grep -q '#compdef kbk' /usr/share/zsh/vendor-completions/_kbk || fail "zsh completes nothing"

# A backup and a restore by the installed commands, on the embedded broker.
KBK_BIN=/usr/bin go run ./examples/demo >"$root/demo.log" 2>&1 || { cat "$root/demo.log" >&2; fail "the demo fails with the installed commands"; }

dpkg -r kbk >/dev/null
[ ! -e /usr/bin/kbk-fetch ] || fail "kbk-fetch stays when the package is removed"
echo "The deb is installed, runs and is removed again."

mkdir "$root/image" "$root/fs"
tar -xf bin/kbk-image.tar -C "$root/image"
layer=$(sed -n 's/.*"Layers":\["\([^"]*\)".*/\1/p' "$root/image/manifest.json")
[ "$(sha256sum <"$root/image/$layer" | cut -d' ' -f1)" = "$(basename "$layer" .tar.gz)" ] || fail "the image's layer has not the digest that it is named by"
tar -xzf "$root/image/$layer" -C "$root/fs"
for c in "${commands[@]}"; do
    chroot --userspec=65532:65532 "$root/fs" "/usr/bin/$c" --version >/dev/null || fail "$c of the image does not run"
done
echo "The commands of the image run in a root of their own."
