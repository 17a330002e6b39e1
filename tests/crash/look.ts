/** What a store, its profile and a binary cache must be like after any kill. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { decompress } from '../../src/formats/archives/decompress.ts';
import { narHashOf, sha256 } from '../../src/formats/hash.ts';
import { fingerprint, parseNarInfo } from '../../src/formats/narinfo.ts';
import { isSignedBy, parsePublicKey } from '../../src/formats/signature.ts';
import { baseNameOf, hashPart, parseStorePath } from '../../src/formats/store-path.ts';
import { readGenerations } from '../../src/store/generations.ts';
import { readManifest } from '../../src/store/profile.ts';
import type { Store } from '../../src/store/store.ts';
import { profileOf, rootedPaths } from './actions.ts';

type Count = (what: string, times?: number) => void;

/** What is told of, and where it is told. */
export interface Findings {
  readonly faults: string[];
  readonly count: Count;
}

/** Looks at every path and every record. */
export async function lookAtStore(store: Store, { faults, count }: Findings): Promise<void> {
  const { default: Database } = await import('libsql');
  const database = new Database(join(store.root, 'nix/var/flk/store.sqlite'));
  const integrity = JSON.stringify(database.prepare('PRAGMA integrity_check').all());
  if (!integrity.includes('"ok"')) faults.push(`integrity_check: ${integrity}`);
  const foreign = database.prepare('PRAGMA foreign_key_check').all();
  if (foreign.length > 0) faults.push(`foreign_key_check: ${JSON.stringify(foreign)}`);
  database.close();
  const paths = store.paths();
  for await (const { path, fault } of store.verify(paths)) {
    count('paths verified');
    if (fault) faults.push(`${path}: ${fault.code} ${fault.message}`);
  }
  check(faults, 'a path refers to what is not valid', () => store.closure(paths));
}

/** Looks whether roots lead to what is valid, and whether the dead have left anything. */
export async function lookAtRoots(store: Store, findings: Findings): Promise<void> {
  const { faults, count } = findings;
  const rooted = rootedPaths(store.root);
  count('roots followed', rooted.length);
  check(faults, 'a root leads to what is not valid', () => store.closure(rooted));
  await lookAtProfile(store, findings);
  assertEmpty(store, faults, 'stage');
}

/** What was switched to is one of the generations, with what it is said to have, and the programs that are started through it. */
async function lookAtProfile(store: Store, { faults, count }: Findings): Promise<void> {
  const profile = profileOf(store.root);
  const target = await readlink(profile).catch(() => undefined);
  if (target === undefined) return;
  const { all, current } = readGenerations(profile);
  count('generations', all.length);
  if (current === undefined) faults.push(`the profile leads to ${target}, which is no generation`);
  for (const { path } of all)
    for (const { storePaths } of (await readManifest(store, path)).values())
      if (!storePaths.every((one) => store.query(one))) faults.push(`${path} has what is not valid`);
  if (!existsSync(join(profile, 'manifest.json'))) faults.push(`${target} has no manifest.json`);
}

/** What nothing is said of may not lie in a store that was just swept, nor what the dead left. */
export function lookAtSwept(store: Store, { faults }: Findings): void {
  const left = readdirSync(join(store.root, 'nix/store')).sort();
  const wanted = store.paths().map(baseNameOf).sort();
  if (JSON.stringify(left) !== JSON.stringify(wanted))
    faults.push(`after a sweep there is ${left.join(' ')} instead of ${wanted.join(' ')}`);
  assertEmpty(store, faults, 'stage');
  assertEmpty(store, faults, 'locks');
}

function assertEmpty(store: Store, faults: string[], folder: string): void {
  const names = readdirSync(join(store.root, 'nix/var/flk', folder));
  if (names.length > 0) faults.push(`in ${folder} there is ${names.join(' ')}`);
}

/** Reads every narinfo and the archive that it speaks of; what it refers to must be there, too. */
export async function lookAtCache(
  folder: string,
  publicKey: string,
  { faults, count }: Findings,
): Promise<void> {
  for (const name of readdirSync(folder)) {
    if (!name.endsWith('.narinfo') || name.startsWith('.')) continue;
    const fault = await faultOf(folder, name, publicKey).catch((error: unknown) => (error as Error).message);
    if (fault !== undefined) faults.push(`${name} in ${folder}: ${fault}`);
    count('archives read');
  }
}

async function faultOf(folder: string, name: string, publicKey: string): Promise<string | undefined> {
  const text = readFileSync(join(folder, name), 'utf8');
  const info = parseNarInfo(text, parseStorePath(/^StorePath: (.*)$/m.exec(text)?.[1] ?? ''));
  const archive = readFileSync(join(folder, info.url));
  if (narHashOf(sha256(archive)) !== info.fileHash || archive.length !== info.fileSize)
    return `${info.url} is not the file that it speaks of`;
  const chunks: Buffer[] = [];
  for await (const chunk of decompress(Readable.from([archive]), info.compression)) chunks.push(chunk);
  const nar = Buffer.concat(chunks);
  if (narHashOf(sha256(nar)) !== info.narHash || nar.length !== info.narSize)
    return `${info.url} has other bytes in it`;
  const isSigned = info.signatures.some((one) =>
    isSignedBy(fingerprint(info), one, [parsePublicKey(publicKey)]),
  );
  if (!isSigned) return 'is not signed';
  const missing = info.references.find((path) => !existsSync(join(folder, `${hashPart(path)}.narinfo`)));
  return missing && `refers to ${missing}, which is not there`;
}

function check(faults: string[], what: string, work: () => void): void {
  try {
    work();
  } catch (error) {
    faults.push(`${what}: ${(error as Error).message}`);
  }
}
