# The phases runner, version 1. Frozen: its bytes are part of the hash of every package built with it; a change is 2.sh.
# A POSIX shell reads it as `/bin/sh THIS_FILE`. Besides built-ins it uses mkdir, cp and chmod; and patch, if there are patches.
#
# From the derivation: out and the other outputs, src, patches, buildInputs, the phases. From the engine: NIX_BUILD_TOP (an empty
# folder), NIX_BUILD_CORES. Whatever else an engine sets is set anew or taken away here, so that a build sees the same everywhere.
set -e
set -f
unset IFS CDPATH ENV NIX_LOG_FD TEMPDIR TEMP TMP TMPDIR

umask 022
PATH=/bin:/usr/bin:/sbin:/usr/sbin
NIX_BUILD_TOP=${NIX_BUILD_TOP:-$PWD}
cd "$NIX_BUILD_TOP"
mkdir home
HOME=$NIX_BUILD_TOP/home
TMPDIR=$NIX_BUILD_TOP
TERM=dumb
TZ=${TZ-UTC}
LC_ALL=${LC_ALL-C}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH-315532800}
NIX_BUILD_CORES=${NIX_BUILD_CORES:-1}
NIX_STORE=${NIX_STORE:-/nix/store}
export NIX_BUILD_TOP HOME TMPDIR PATH TERM TZ LC_ALL SOURCE_DATE_EPOCH NIX_BUILD_CORES NIX_STORE

# Where programs, headers and libraries of the build inputs are found: earlier inputs first, what the package's own env sets before
# them, the toolchain after them. LD_RUN_PATH lets a program find its libraries in the store when it runs, and so keeps them alive.
flk_bin='' flk_include='' flk_lib='' flk_pkg_config='' flk_aclocal='' flk_prefix=''
for flk_input in $buildInputs; do
  flk_prefix=$flk_prefix:$flk_input
  if [ -d "$flk_input/bin" ]; then flk_bin=$flk_bin$flk_input/bin:; fi
  if [ -d "$flk_input/include" ]; then flk_include=$flk_include:$flk_input/include; fi
  flk_dirs='lib lib64'
  if [ -L "$flk_input/lib64" ]; then flk_dirs=lib; fi
  for flk_dir in $flk_dirs; do
    if [ -d "$flk_input/$flk_dir" ]; then flk_lib=$flk_lib:$flk_input/$flk_dir; fi
    if [ -d "$flk_input/$flk_dir/pkgconfig" ]; then flk_pkg_config=$flk_pkg_config:$flk_input/$flk_dir/pkgconfig; fi
  done
  if [ -d "$flk_input/share/pkgconfig" ]; then flk_pkg_config=$flk_pkg_config:$flk_input/share/pkgconfig; fi
  if [ -d "$flk_input/share/aclocal" ]; then flk_aclocal=$flk_aclocal:$flk_input/share/aclocal; fi
done
PATH=$flk_bin$PATH
# An empty list stays unset, and no list has an empty element: gcc and ld would take it for the working folder.
flk_search() {
  eval "flk_own=\${$1-}"
  flk_own=$flk_own${flk_own:+$2}
  flk_own=${flk_own:-${2#:}}
  if [ -n "$flk_own" ]; then
    eval "$1=\$flk_own"
    export "$1"
  fi
}
flk_search CPATH "$flk_include"
flk_search LIBRARY_PATH "$flk_lib"
flk_search LD_RUN_PATH "$flk_lib"
flk_search PKG_CONFIG_PATH "$flk_pkg_config"
flk_search CMAKE_PREFIX_PATH "$flk_prefix"
flk_search ACLOCAL_PATH "$flk_aclocal"

# A folder becomes ./source, writable; a file is copied into an empty ./source under its own name. Times are kept (they are all equal
# in a store), or make would see generated files older than what they were made from, by the order of copying.
flk_unpack() {
  if [ -d "$src" ]; then
    cp -RPp "$src/." source
    chmod -R u+w source
    cd source
    return
  fi
  flk_name=${src##*/}
  if [ "$src" = "$NIX_STORE/$flk_name" ]; then flk_name=${flk_name#????????????????????????????????-}; fi
  mkdir source
  cd source
  cp -p "$src" "./$flk_name"
  chmod u+w "./$flk_name"
}

if [ -n "${unpackPhase-}" ]; then
  echo '==> unpackPhase'
  set +f
  eval "$unpackPhase"
  set -f
elif [ -n "${src-}" ]; then
  echo '==> unpackPhase'
  flk_unpack
fi

if [ -n "${patches-}" ] && ! command -v patch >/dev/null; then
  echo 'patches need the program patch, which neither the toolchain nor a build input has' >&2
  exit 127
fi
for flk_patch in ${patches-}; do
  echo "==> patch ${flk_patch##*/}"
  patch -p1 -i "$flk_patch"
done

unset flk_input flk_bin flk_include flk_lib flk_pkg_config flk_aclocal flk_prefix flk_dirs flk_dir flk_own flk_name flk_patch
unset -f flk_search flk_unpack
set +f

# Phases run in this shell, one after the other: where one has gone, and what it has set, the next one finds.
if [ -n "${configurePhase-}" ]; then
  echo '==> configurePhase'
  eval "$configurePhase"
fi
if [ -n "${buildPhase-}" ]; then
  echo '==> buildPhase'
  eval "$buildPhase"
fi
if [ -n "${checkPhase-}" ]; then
  echo '==> checkPhase'
  eval "$checkPhase"
fi
if [ -n "${installPhase-}" ]; then
  echo '==> installPhase'
  eval "$installPhase"
fi
