/** Why Nix refuses, told from its message, and the codes with which flk refuses for the same reason. */
import type { ErrorCode } from '../../../src/base/errors.ts';

interface Refusal {
  readonly kind: string;
  readonly nix: RegExp;
  readonly flk: readonly ErrorCode[];
}

/** The first that matches counts. */
const refusals: readonly Refusal[] = [
  { kind: 'circle of flakes', nix: /found circular import of flake/, flk: ['FLK_INPUT_CYCLE'] },
  { kind: 'circle of follows', nix: /follow cycle detected/, flk: ['FLK_FOLLOWS_CYCLE'] },
  { kind: 'follows nothing', nix: /follows a non-existent input/, flk: ['FLK_FOLLOWS_MISSING'] },
  {
    kind: 'no registry',
    nix: /cannot find flake 'flake:.*' in the flake registries/,
    flk: ['FLK_REGISTRY_UNKNOWN', 'FLK_INPUT_UNKNOWN'],
  },
  {
    kind: 'out of the tree',
    nix: /access to absolute path '.*' is forbidden in pure evaluation mode/,
    flk: ['FLK_REF_INVALID'],
  },
  {
    kind: 'no manifest',
    nix: /(flake\.nix' does not exist|does not contain a '.*flake\.nix' file|'.*' is not a flake)/,
    flk: ['FLK_MANIFEST_MISSING'],
  },
  {
    kind: 'no such ref',
    nix: /(couldn't find remote ref|could not (find|resolve) .*ref|revspec '.*' not found|resolving Git reference)/,
    flk: ['FLK_GIT_REF_MISSING'],
  },
  {
    kind: 'no attribute of such a reference',
    nix: /input attribute '.*' not supported by scheme/,
    flk: ['FLK_LOCK_INVALID', 'FLK_MANIFEST_INVALID'],
  },
  { kind: 'no name for a registry', nix: /is not a valid flake ID/, flk: ['FLK_REF_INVALID'] },
  {
    kind: 'no name of an input',
    nix: /invalid flake input attribute path element/,
    flk: ['FLK_MANIFEST_INVALID', 'FLK_USAGE'],
  },
  {
    kind: 'flags that do not go together',
    nix: /exportIgnore and submodules are not supported together/,
    flk: ['FLK_REF_UNSUPPORTED'],
  },
  {
    kind: 'a changed working tree',
    nix: /Not writing lock file of flake .* because it has an unlocked input/,
    flk: ['FLK_LOCK_UNLOCKED_INPUT'],
  },
  { kind: 'no Nix', nix: /duplicate formal function argument/, flk: ['FLK_MANIFEST_INVALID'] },
  { kind: 'lock unreadable', nix: /(Could not parse|missing in lock file)/, flk: ['FLK_LOCK_INVALID'] },
  { kind: 'lock of a later version', nix: /has unsupported version/, flk: ['FLK_LOCK_INVALID'] },
  { kind: 'lock names a missing node', nix: /lock file references missing node/, flk: ['FLK_LOCK_INVALID'] },
  {
    kind: 'other bytes than locked',
    nix: /NAR hash mismatch/,
    flk: ['FLK_NAR_HASH_MISMATCH'],
  },
  {
    kind: 'lock may not change',
    nix: /requires lock file changes but they're not allowed/,
    flk: ['FLK_LOCK_STALE', 'FLK_LOCK_MISSING'],
  },
];

export function refusalKind(stderr: string): string {
  return refusals.find(({ nix }) => nix.test(stderr))?.kind ?? 'unknown';
}

/** flk does not look for more where the lock may not change and is not current; Nix finds out on the way. */
export const mayNotChange: readonly string[] = ['FLK_LOCK_STALE', 'FLK_LOCK_MISSING'];

/** Whether flk's code says what Nix's message says. */
export function sameRefusal(stderr: string, code: string): boolean {
  const refusal = refusals.find(({ nix }) => nix.test(stderr));
  return refusal !== undefined && (refusal.flk as readonly string[]).includes(code);
}
