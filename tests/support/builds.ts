/** Builds of made-up derivations in a local engine, over a folder. */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { silent } from '../../src/base/events.ts';
import { Builders } from '../../src/build/builders.ts';
import type { BuildRequest, Engine } from '../../src/build/engines/engine.ts';
import type { Derivation } from '../../src/formats/derivation.ts';
import { parseStorePath, type StorePath } from '../../src/formats/store-path.ts';

export const storePath = (name: string, letter = 'a'): StorePath =>
  parseStorePath(`/nix/store/${letter.repeat(32)}-${name}`);

/** What a build is asked for beside its script. */
export type Changes = Partial<Omit<BuildRequest, 'limits'>> & {
  readonly limits?: Partial<BuildRequest['limits']>;
  readonly env?: Readonly<Record<string, string>>;
  readonly builder?: string;
  readonly args?: readonly string[];
  readonly outputs?: readonly string[];
};

/** Runs a script by /bin/sh with the host's tools; `$out` is its output. Lines that it prints are pushed. */
export function buildRequest(script: string, lines: string[], changes: Changes = {}): BuildRequest {
  const { limits, env, builder, args, outputs, ...rest } = changes;
  const derivation: Derivation = {
    outputs: new Map(
      (outputs ?? ['out']).map((name) => [
        name,
        { path: storePath(name === 'out' ? 'out' : `out-${name}`), hashAlgo: '', hash: '' },
      ]),
    ),
    inputDrvs: new Map(),
    inputSrcs: [],
    system: 'x86_64-linux',
    builder: builder ?? '/bin/sh',
    args: args ?? ['-c', script],
    env: new Map(Object.entries({ out: storePath('out'), PATH: '/usr/sbin:/usr/bin:/sbin:/bin', ...env })),
  };
  return {
    drvPath: storePath('test.drv', 'd'),
    derivation,
    closure: [],
    toolchain: { kind: 'host' },
    cores: 2,
    log: (line) => lines.push(line),
    limits: { maxOutputBytes: 64 * 1024 * 1024, maxLogBytes: 1024 * 1024, timeout: 60, ...limits },
    ...rest,
  };
}

/** An engine that does what it is told instead of building. */
export const playedEngine = (build: Engine['build'], changes: Partial<Engine> = {}): Engine => ({
  name: 'played',
  ultimate: true,
  refusal: () => undefined,
  probe: async () => {},
  build,
  close: async () => {},
  ...changes,
});

/** For a realisation: one builder, which takes whatever its engine does. */
export function soleBuilder(engine: Engine, jobs = 1): () => Promise<Builders> {
  const builders = new Builders(
    [{ engine, systems: ['x86_64-linux'], features: ['benchmark', 'big-parallel'], jobs }],
    silent,
  );
  return async () => builders;
}

const has = (tool: string): boolean => spawnSync(tool, ['--version'], { stdio: 'ignore' }).status === 0;

/** Whether mounts can be made in a namespace. */
export const canNamespace =
  spawnSync('unshare', ['--user', '--map-root-user', '--mount', 'true']).status === 0;

/** The ways of making a sandbox, and whether this machine can. */
export const sandboxVariants = [
  { sandbox: 'bubblewrap' as const, usable: has('bwrap') && canNamespace },
  { sandbox: 'unshare' as const, usable: has('unshare') && canNamespace },
];

let slept = 0;

/** An argument for `sleep`, longer than any test, that no other process of this machine has: other tests run beside this one. */
export function longSleep(): string {
  return `98765.${String(process.pid).padStart(7, '0')}${++slept}`;
}

/** Processes of this machine whose command line holds the word. */
export function running(word: string): string[] {
  return readdirSync('/proc')
    .filter((entry) => /^[0-9]+$/.test(entry))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0').includes(word);
      } catch {
        return false;
      }
    });
}
