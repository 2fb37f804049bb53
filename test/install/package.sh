#!/usr/bin/env bash
# Installs the deb that make packages has made, as a user does, runs what it installs, and removes
# it; does the same with the rpm in a root of its own; unpacks the archive and runs what is in it;
# and runs the commands of bin/kbk-image.tar in another root. It takes Debian with its package rpm,
# and root.
set -euo pipefail
cd "$(dirname "$0")/../.."

root=$(mktemp -d)
trap 'dpkg -r kbk >/dev/null 2>&1; rm -rf "$root"' EXIT
fail() { echo "package.sh: $*" >&2; exit 1; }

commands=(kbk kbk-catalog kbk-cluster kbk-fetch kbk-filter kbk-import kbk-offsets kbk-pack kbk-produce kbk-pull kbk-push)

# installed ROOT ZSH looks at what a package has put below a root, and makes a backup and a restore
# with it, on the embedded broker. zsh looks for completions in the folder ZSH.
installed() {
    for c in "${commands[@]}"; do
        env -i "$1/usr/bin/$c" --version | grep -q "^$c version .* (commit ........" || fail "$1/usr/bin/$c --version: $("$1/usr/bin/$c" --version)"
        [ -e "$1/usr/share/man/man1/$c.1" ] || fail "there is no page of $c"
        grep -q "$c" "$1/usr/share/bash-completion/completions/$c" || fail "bash completes no $c"
        grep -q "$c" "$1/usr/share/fish/vendor_completions.d/$c.fish" || fail "fish completes no $c"
    done
    [ -e "$1/usr/share/doc/kbk/docs/how-to/nightly-backup.md" ] && [ -e "$1/usr/share/doc/kbk/contrib/systemd/kbk-backup@.timer" ] || fail "there are no how-tos, or no units of systemd"
    grep -q '#compdef kbk' "$1/usr/share/zsh/$2/_kbk" || fail "zsh completes nothing"
    KBK_BIN=$1/usr/bin go run ./examples/demo >"$root/demo.log" 2>&1 || { cat "$root/demo.log" >&2; fail "the demo fails with the installed commands"; }
}

# removed ROOT looks that nothing is left but folders that other packages have, too.
removed() {
    left=$(find "$1/usr/bin" "$1/usr/share" -name '*kbk*')
    [ -z "$left" ] || fail "the package is removed, and these stay: $left"
}

# GoReleaser empties dist first, so there is one of each.
(cd dist && sha256sum --quiet --ignore-missing -c checksums.txt) || fail "a package has not the checksum in checksums.txt"
dpkg -i dist/kbk_*.deb >/dev/null
size=$(dpkg-query -W -f '${Installed-Size}' kbk) # KiB
[ "$size" -le 117187 ] || fail "the package takes $size KiB installed, over 120 MB"
installed "" vendor-completions
dpkg -r kbk >/dev/null
removed ""
echo "The deb is installed, runs and is removed again."

# Debian's rpm says each time that alien should be used instead.
mkdir "$root/rpm"
rpm() { command rpm --root "$root/rpm" "$@" 2>"$root/rpm.log" || { cat "$root/rpm.log" >&2; fail "rpm $* fails"; }; }
rpm -i --nodeps dist/kbk_*.rpm # there is nothing to depend on, and no /bin/sh in this root
[ -z "$(rpm -q --requires kbk)$(rpm -q --scripts kbk)" ] || fail "the rpm depends on other packages, or has scripts"
size=$(rpm -q --queryformat '%{SIZE}' kbk)
[ "$size" -le 120000000 ] || fail "the rpm takes $size bytes installed, over 120 MB"
rpm -V kbk
installed "$root/rpm" site-functions
rpm -e kbk
removed "$root/rpm"
echo "The rpm is installed, runs and is removed again."

mkdir "$root/archive"
tar -xzf dist/kbk_*_linux_*.tar.gz -C "$root/archive"
for c in "${commands[@]}"; do
    [ -s "$root/archive/man/man1/$c.1" ] || fail "the archive has no page of $c"
    env -i "$root/archive/$c" --version >/dev/null || fail "$c of the archive does not run"
done
for f in LICENSE README.md CHANGELOG.md completions/kbk.bash completions/_kbk completions/kbk.fish; do
    [ -s "$root/archive/$f" ] || fail "the archive has no $f"
done
echo "The commands of the archive run."

mkdir "$root/image" "$root/fs"
tar -xf bin/kbk-image.tar -C "$root/image"
layer=$(sed -n 's/.*"Layers":\["\([^"]*\)".*/\1/p' "$root/image/manifest.json")
[ "$(sha256sum <"$root/image/$layer" | cut -d' ' -f1)" = "$(basename "$layer" .tar.gz)" ] || fail "the image's layer has not the digest that it is named by"
tar -xzf "$root/image/$layer" -C "$root/fs"
for c in "${commands[@]}"; do
    chroot --userspec=65532:65532 "$root/fs" "/usr/bin/$c" --version >/dev/null || fail "$c of the image does not run"
done
echo "The commands of the image run in a root of their own."
