import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type Derivation,
  type DerivationDraft,
  derivationPath,
  hashDerivationModulo,
  withOutputPaths,
} from '../../src/formats/derivation.ts';
import { hashTree } from '../../src/formats/nar.ts';
import { baseNameOf, hashPart, makeSourcePath, type StorePath } from '../../src/formats/store-path.ts';
import { walkPath } from '../../src/store/tree-files.ts';
import { nix, nixAvailable, nixCommand, nixReason } from '../support/nix.ts';
import { temporaryFolder } from '../support/temp.ts';
import { anyNode, narOf, treeFrom, writeNode } from '../support/trees.ts';

describe.skipIf(!nixAvailable())(`formats beside Nix ${nixReason}`, () => {
  it('agree on archives, in both directions', async () => {
    const folder = temporaryFolder();
    for (const [i, node] of fc.sample(anyNode, { numRuns: 12, seed: 7 }).entries()) {
      const nar = join(folder, `${i}.nar`);
      writeFileSync(nar, narOf(node));
      // Nix unpacks what flk packed …
      const restored = await nixCommand('nix-store', ['--restore', join(folder, `restored${i}`)], {
        input: readFileSync(nar),
      });
      expect(restored.status, restored.stderr).toBe(0);
      const { narHash } = await hashTree(walkPath(join(folder, `restored${i}`)));
      expect(narHash).toBe((await hashTree(treeFrom(node))).narHash);
      // … and gives the same hash to the same tree on disk.
      const path = join(folder, `tree${i}`);
      writeNode(node, path);
      const hashed = await nix(['hash', 'path', path]);
      expect(hashed.stdout.trim()).toBe(narHash);
    }
  });

  it('agree on the paths of sources', async () => {
    const folder = temporaryFolder();
    for (const name of ['source', 'a-1.0', '.hidden', 'x+y_z?=']) {
      const path = join(folder, name);
      mkdirSync(path);
      writeFileSync(join(path, 'file'), name);
      const { narHash } = await hashTree(walkPath(path));
      const added = await nix(['store', 'add', '--name', name, path]);
      expect(added.stdout.trim(), added.stderr).toBe(makeSourcePath(name, narHash));
    }
  });

  it('agree on a graph of derivations', async () => {
    const folder = temporaryFolder();
    const sources: StorePath[] = [];
    for (const name of ['one', 'two']) {
      writeFileSync(join(folder, name), name);
      const { stdout } = await nix(['store', 'add', join(folder, name)]);
      sources.push(stdout.trim() as StorePath);
    }
    const made = new Map<StorePath, Derivation>();
    const modulo = (path: StorePath): string => hashDerivationModulo(made.get(path)!, modulo);
    const text = fc.string({
      unit: fc.constantFrom('a', '"', '\\', '\n', '\t', '\r', '$', 'é', '𝄞', ' '),
      maxLength: 12,
    });
    for (let i = 0; i < 14; i++) {
      const [args = [], values = [], pick = 0] =
        fc.sample(fc.tuple(fc.array(text), fc.array(text), fc.nat()), { numRuns: 1, seed: i })[0] ?? [];
      const fixed = i % 4 === 1;
      const earlier = [...made].filter((_, n) => ((pick >> n) & 1) === 1 || n === i - 1);
      const draft: DerivationDraft = {
        outputs: new Map(
          fixed
            ? // The same content from two different fetchers.
              [
                [
                  'out',
                  {
                    hashAlgo: i % 8 === 1 ? 'sha256' : 'r:sha256',
                    hash: '5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03',
                  },
                ],
              ]
            : ['out', 'dev', 'man'].slice(0, 1 + (i % 3)).map((name) => [name, { hashAlgo: '', hash: '' }]),
        ),
        inputDrvs: new Map(earlier.map(([path, { outputs }]) => [path, [...outputs.keys()].reverse()])),
        inputSrcs: sources.slice(i % 3),
        system: 'x86_64-linux',
        builder: '/bin/sh',
        args,
        env: new Map([['name', `n${i}`], ...values.map((value, n): [string, string] => [`v${n}`, value])]),
      };
      const name = fixed ? 'fixed' : `n${i}-1.0`;
      const derivation = withOutputPaths(name, draft, modulo);
      const added = await nix(['derivation', 'add'], { input: nixJson(name, derivation) });
      expect(added.stdout.trim(), added.stderr).toBe(derivationPath(name, derivation));
      made.set(derivationPath(name, derivation), derivation);
    }
    expect(new Set([...made.keys()].map(hashPart)).size).toBe(14);
  });
});

/** What `nix derivation add` takes (version 4). Nix refuses output paths that are not the ones it computes itself. */
function nixJson(name: string, derivation: Derivation): string {
  const outputs = [...derivation.outputs].map(([output, { path, hashAlgo, hash }]) => [
    output,
    hash === ''
      ? { path: baseNameOf(path) }
      : {
          method: hashAlgo === 'sha256' ? 'flat' : 'nar',
          hash: `sha256-${Buffer.from(hash, 'hex').toString('base64')}`,
        },
  ]);
  const drvs = [...derivation.inputDrvs].map(([path, names]) => [
    baseNameOf(path),
    { outputs: names, dynamicOutputs: {} },
  ]);
  return JSON.stringify({
    version: 4,
    name,
    system: derivation.system,
    builder: derivation.builder,
    args: derivation.args,
    env: Object.fromEntries(derivation.env),
    outputs: Object.fromEntries(outputs),
    inputs: { srcs: derivation.inputSrcs.map(baseNameOf), drvs: Object.fromEntries(drvs) },
  });
}
