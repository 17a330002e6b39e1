/** The parts of the local engine that need no namespaces: lines of logs, the environment, why a machine lets us make no sandbox. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { builderEnvironment } from '../../../src/build/engines/environment.ts';
import { namespaceObstacle, sandboxUnavailable } from '../../../src/build/engines/host.ts';
import { Lines } from '../../../src/build/engines/supervise.ts';
import type { Derivation } from '../../../src/formats/derivation.ts';

function linesOf(...chunks: readonly (string | Buffer)[]): string[] {
  const taken: string[] = [];
  const lines = new Lines((line) => taken.push(line));
  for (const chunk of chunks) lines.push(Buffer.from(chunk));
  lines.end();
  return taken;
}

describe('lines of a log', () => {
  it.each([
    [['a\nb\n'], ['a', 'b']],
    [['a\nb'], ['a', 'b']],
    [
      ['a', 'b\n', '\n'],
      ['ab', ''],
    ],
    [
      ['a\r\nb\r', '\n'],
      ['a', 'b'],
    ],
    [
      ['10%\r20%\r', '100%\ndone'],
      ['100%', 'done'],
    ],
    [[Buffer.from([0xc3]), Buffer.from([0xa9, 0x0a])], ['é']],
    [[], []],
  ])('%j are %j', (chunks, expected) => {
    expect(linesOf(...chunks)).toEqual(expected);
  });

  it('do not depend on how the bytes are cut', () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom('a', 'é', '\n', '\r\n') }), fc.nat(8), (text, size) => {
        const bytes = Buffer.from(text);
        const chunks: Buffer[] = [];
        for (let at = 0; at < bytes.length; at += size + 1) chunks.push(bytes.subarray(at, at + size + 1));
        expect(linesOf(...chunks)).toEqual(linesOf(bytes));
      }),
    );
  });

  it('are cut where they have no end, and a progress bar takes no memory', () => {
    expect(linesOf('x'.repeat(40_000)).map((line) => line.length)).toEqual([16_384, 16_384, 7232]);
    expect(linesOf(...Array.from({ length: 5000 }, (_, i) => `${i} of 5000\r`), 'done\n')).toEqual(['done']);
  });
});

describe('the builder’s environment', () => {
  const derivation = (env: Record<string, string>): Derivation => ({
    outputs: new Map(),
    inputDrvs: new Map(),
    inputSrcs: [],
    system: 'x86_64-linux',
    builder: '/bin/sh',
    args: [],
    env: new Map(Object.entries(env)),
  });

  it('lets the derivation set what is only a default, and nothing else', () => {
    const env = builderEnvironment(
      { derivation: derivation({ PATH: '/bin', HOME: '/h', TMPDIR: '/x', NIX_BUILD_CORES: '9' }), cores: 4 },
      '/build',
    );
    expect(env.get('PATH')).toBe('/bin');
    expect(env.get('HOME')).toBe('/h');
    expect(env.get('NIX_BUILD_CORES')).toBe('9');
    expect(env.get('TMPDIR')).toBe('/build');
    expect(builderEnvironment({ derivation: derivation({}), cores: 4 }, '/build').get('PATH')).toBe(
      '/path-not-set',
    );
  });

  it.each([{ 'A=B': '' }, { '': 'x' }, { 'A\0': 'x' }, { A: 'x\0' }])('refuses %j', (env) => {
    expect(() => builderEnvironment({ derivation: derivation(env), cores: 1 }, '/build')).toThrow(
      expect.objectContaining({ code: 'FLK_DERIVATION_INVALID' }),
    );
  });
});

describe('why there is no sandbox', () => {
  const reading = (files: Record<string, string>) => async (path: string) => files[path];

  it.each([
    [{ '/proc/sys/user/max_user_namespaces': '0\n' }, 'sudo sysctl -w user.max_user_namespaces=15000'],
    [
      { '/proc/sys/kernel/unprivileged_userns_clone': '0\n' },
      'sudo sysctl -w kernel.unprivileged_userns_clone=1',
    ],
    [
      { '/proc/sys/kernel/apparmor_restrict_unprivileged_userns': '1\n' },
      'sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0',
    ],
    [
      { '/proc/self/status': 'Name:\tnode\nSeccomp:\t2\n' },
      'start the container with --security-opt seccomp=unconfined --security-opt systempaths=unconfined',
    ],
    [
      { '/proc/self/mountinfo': '1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / /proc/kcore rw - tmpfs x rw\n' },
      'start the container with --security-opt systempaths=unconfined',
    ],
  ])('%j is mended by %s', async (files, hint) => {
    expect(await namespaceObstacle(reading(files))).toMatchObject({ hint });
  });

  it('is not guessed where the kernel tells nothing', async () => {
    expect(
      await namespaceObstacle(
        reading({
          '/proc/sys/user/max_user_namespaces': '96365\n',
          '/proc/self/status': 'Seccomp:\t0\n',
          '/proc/self/mountinfo': '2 1 0:2 / /proc rw - proc proc rw\n',
        }),
      ),
    ).toBeUndefined();
  });

  it('is told with what each sandbox printed', async () => {
    const error = await sandboxUnavailable([
      { sandbox: 'bubblewrap', output: ['bwrap: No permissions to create a new namespace'] },
      { sandbox: 'unshare', output: [] },
    ]);
    expect(error).toMatchObject({
      code: 'FLK_SANDBOX_UNAVAILABLE',
      facts: { bubblewrap: 'bwrap: No permissions to create a new namespace', unshare: 'no message' },
    });
    expect((await sandboxUnavailable([])).hint).toContain('apt install bubblewrap');
  });
});
