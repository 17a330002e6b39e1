/**
 * An example of a toolchain out of nothing but archives: Debian's packages, each fetched and unpacked by flk itself, merged into one
 * tree that lies at `/` while a C library and a program are built. No file of the machine is visible to the build.
 *
 * Which versions there are, apt knows: `learnPackages` asks it for the packages named and all that they depend on.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** What the toolchain is made of; apt adds what these need. */
const wanted = ['gcc', 'libc6-dev', 'binutils', 'make', 'busybox-static'];

/** Of busybox: what the phases runner, make and a Makefile use. */
const applets =
  'awk basename cat chmod cmp cp cut date dirname echo env expr false find grep head id install ln ls mkdir mv nproc printf ps pwd rm rmdir sed sh sleep sort tail test touch tr true uname uniq wc xargs'.split(
    ' ',
  );

const apt = (...args) =>
  execFileSync('apt-get', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], maxBuffer: 2 ** 26 });

/** The packages and their dependencies, whatever is installed here: their names and, once apt has fetched and checked them, files. */
export function learnPackages(folder) {
  // What apt has in its cache it does not list.
  const archives = join(folder, 'archives');
  mkdirSync(join(archives, 'partial'), { recursive: true });
  const listed = apt(
    ...['install', '--print-uris', '-qq', '-y', '--no-install-recommends'],
    ...['-o', 'Dir::State::status=/dev/null', '-o', `Dir::Cache::archives=${archives}`],
    ...wanted,
  );
  const names = [...listed.matchAll(/^'[^']*' ([^_\s]+)_/gm)].map((match) => match[1] ?? '');
  execFileSync('apt-get', ['download', '-qq', ...names], {
    cwd: folder,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  return names;
}

/** The name of a Debian package as flk's packages are named. */
export const packageName = (name) => `deb-${name.replaceAll('+', 'p').replaceAll('.', '-')}`;

/**
 * The whole flake, path → text.
 * @param {readonly { name: string, url: string, hash?: string }[]} packages Where each .deb is, and the NAR hash of what is in it.
 */
export function debianFlake(packages) {
  const source = (name) => readFileSync(new URL(name, import.meta.url), 'utf8');
  const sources = ['Makefile', 'greet.c', 'greet.h', 'main.c'];
  const fetches = packages.map(({ name, url, hash }) => {
    const pinned = hash === undefined ? '' : `, hash: "${hash}"`;
    return `  ${packageName(name)}: { fetch: { url: "${url}"${pinned}, unpack: true } }`;
  });
  const links = [
    // Older packages have /bin and /lib, newer ones leave that to the system.
    ...['bin', 'sbin', 'lib', 'lib64'].map((name) => `      ${name}: usr/${name}`),
    // What Debian makes when it installs a package.
    '      usr/bin/cc: gcc',
    ...applets.map((name) => `      usr/bin/${name}: busybox`),
  ];
  const manifest = `description: A C library and a program, built by Debian's packages
systems: [x86_64-linux, aarch64-linux]
toolchain: "#toolchain"
packages:
  default: greet
  greet:
    version: "1.0"
    src: { path: ., include: [${sources.join(', ')}] }
    buildPhase: make PREFIX=$out
    checkPhase: make check
    installPhase: |
      make PREFIX=$out install
      mkdir -p $out/share
      ls / > $out/share/root
    meta: { description: Greets, mainProgram: greet }
  toolchain:
    merge: [${packages.map(({ name }) => `"#${packageName(name)}"`).join(', ')}]
    links:
${links.join('\n')}
${fetches.join('\n')}
checks:
  greets:
    buildInputs: [greet]
    installPhase: |
      test "$(greet flk)" = "Hello, flk!"
      greet flk > $out
`;
  return { 'flake.yaml': manifest, ...Object.fromEntries(sources.map((name) => [name, source(name)])) };
}
