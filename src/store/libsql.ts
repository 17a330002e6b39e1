/**
 * libsql, loaded without its search for the machine's C library. It has Node write a whole diagnostic report for that, twice, and
 * loads node:child_process: two thirds of the 22 ms that it takes to load, at every start. Which of its native packages fits is found
 * by trying: npm installs no other, and one for another C library does not load.
 */
import { createRequire, Module } from 'node:module';
import type Database from 'libsql';

let loaded: typeof Database | undefined;

/** The class of a connection. Throws what Node does where libsql is not installed for this machine. */
export function loadLibsql(): typeof Database {
  loaded ??= load();
  return loaded;
}

function load(): typeof Database {
  const require = createRequire(import.meta.url);
  const ofLibsql = createRequire(require.resolve('libsql'));
  const target = nativeTarget(ofLibsql);
  if (target === undefined) return require('libsql') as typeof Database;
  const answers = {
    '@neon-rs/load': { currentTarget: () => target },
    'detect-libc': { familySync: () => null, GLIBC: 'glibc', MUSL: 'musl' },
  };
  const answered = Object.entries(answers).map(([name, exports]) => {
    const file = ofLibsql.resolve(name);
    const before = ofLibsql.cache[file];
    ofLibsql.cache[file] = Object.assign(new Module(file), { exports, loaded: true });
    return { file, before };
  });
  try {
    return require('libsql') as typeof Database;
  } finally {
    for (const { file, before } of answered) {
      if (before) ofLibsql.cache[file] = before;
      else delete ofLibsql.cache[file];
    }
  }
}

/** Undefined where libsql is to find out by itself. */
function nativeTarget(ofLibsql: NodeJS.Require): string | undefined {
  const { platform, arch } = process;
  if (platform !== 'linux' || (arch !== 'x64' && arch !== 'arm64')) return undefined;
  return [`linux-${arch}-gnu`, `linux-${arch}-musl`].find((target) => {
    try {
      ofLibsql(`@libsql/${target}`);
      return true;
    } catch {
      return false;
    }
  });
}
