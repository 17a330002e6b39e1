/** Locks as they are found in the wild: made by an older Nix, merged by hand, or out of step with their flake. */
import type { Random } from './random.ts';

interface Node {
  inputs?: Record<string, string | string[]> | undefined;
  locked?: Record<string, unknown> | undefined;
  original?: Record<string, unknown>;
  info?: Record<string, unknown>;
  parent?: string[];
  flake?: boolean;
}

interface Lock {
  nodes: Record<string, Node>;
  root: string;
  version: number;
}

/** Each as often as its number says. */
const damages = {
  renamed: 4,
  reversed: 2,
  compact: 1,
  version5: 2,
  version6: 2,
  shared: 2,
  unreachable: 1,
  withoutInput: 3,
  withoutParent: 1,
  withoutRevCount: 2,
  withoutRef: 1,
  withoutLastModified: 1,
  withoutNarHash: 1,
  staleOriginal: 3,
  invertedFlake: 1,
  strangeFollows: 1,
  followsNowhere: 1,
  followsRoot: 1,
  strangeParent: 1,
  swappedLocked: 2,
  swappedInputs: 2,
  strangeAttribute: 0.5,
  missingNode: 1,
  cut: 1,
  version8: 1,
} as const;

/** The same lock in another shape, or with a fault. */
export function damagedLock(text: string, random: Random): string {
  const damage = random.weighted(damages);
  let lock: Lock;
  try {
    lock = JSON.parse(text) as Lock;
  } catch {
    return text;
  }
  const keys = Object.keys(lock.nodes).filter((key) => key !== lock.root);
  if (keys.length === 0) return text;
  const nodes = keys.map((key) => lock.nodes[key]!);
  const node = random.pick(nodes);
  const withInputs = Object.values(lock.nodes).filter(
    ({ inputs }) => inputs && Object.keys(inputs).length > 0,
  );
  switch (damage) {
    case 'renamed':
      return print(renamed(lock, (key) => (random.chance(0.5) ? key : `z${random.below(50)}_${key}`)));
    case 'reversed':
      lock.nodes = Object.fromEntries(Object.entries(lock.nodes).reverse());
      break;
    case 'compact':
      return JSON.stringify(lock);
    case 'version5':
      lock.version = 5;
      for (const one of nodes) {
        if (!one.locked || one.locked.type === 'path') continue;
        const { narHash, lastModified, ...others } = one.locked;
        one.info = { narHash, ...(lastModified === undefined ? {} : { lastModified }) };
        one.locked = others;
      }
      break;
    case 'version6':
      lock.version = 6;
      break;
    case 'shared': {
      const edges = withInputs.flatMap(({ inputs }) =>
        Object.entries(inputs ?? {}).flatMap(([name, edge]) =>
          typeof edge === 'string' ? [{ inputs: inputs!, name, edge }] : [],
        ),
      );
      const [first, second] = random.shuffled(edges);
      // Never upwards: that would be a circle.
      if (first && second && !reaches(lock, second.edge, first.edge)) first.inputs[first.name] = second.edge;
      if (reachesItself(lock)) return text;
      break;
    }
    case 'unreachable':
      lock.nodes.nobody = structuredClone(node);
      delete lock.nodes.nobody.inputs;
      break;
    case 'withoutInput': {
      const { inputs } = random.pick(withInputs);
      if (inputs) delete inputs[random.pick(Object.keys(inputs))];
      break;
    }
    case 'withoutParent':
      for (const one of nodes) delete one.parent;
      break;
    case 'withoutRevCount':
      for (const one of nodes) delete one.locked?.revCount;
      break;
    case 'withoutRef':
      delete node.locked?.ref;
      break;
    case 'withoutLastModified':
      delete node.locked?.lastModified;
      break;
    case 'withoutNarHash':
      if (node.locked?.type === 'git') delete node.locked.narHash;
      break;
    case 'staleOriginal':
      if (node.original?.type === 'git') node.original = { type: 'git', url: node.original.url, ref: 'main' };
      break;
    case 'invertedFlake':
      if (node.flake === false) delete node.flake;
      else node.flake = false;
      break;
    case 'strangeFollows': {
      const { inputs } = random.pick(withInputs);
      if (inputs) inputs[random.pick(Object.keys(inputs))] = [random.pick(keys)];
      break;
    }
    case 'followsNowhere':
    case 'followsRoot': {
      const { inputs } = random.pick(withInputs);
      if (inputs) inputs[random.pick(Object.keys(inputs))] = damage === 'followsRoot' ? [] : ['nowhere', 'a'];
      break;
    }
    case 'strangeParent':
      node.parent = random.chance(0.5) ? ['nowhere'] : [random.pick(keys)];
      break;
    case 'swappedLocked': {
      const other = random.pick(nodes);
      [node.locked, other.locked] = [other.locked, node.locked];
      break;
    }
    case 'swappedInputs': {
      const other = random.pick(nodes);
      [node.inputs, other.inputs] = [other.inputs, node.inputs];
      if (reachesItself(lock)) return text;
      break;
    }
    case 'strangeAttribute':
      if (node.locked) node.locked.strange = 1;
      break;
    case 'missingNode':
      delete lock.nodes[random.pick(keys)];
      break;
    case 'cut':
      return text.slice(0, random.below(text.length));
    case 'version8':
      lock.version = 8;
  }
  return print(lock);
}

function print(lock: Lock): string {
  return `${JSON.stringify(lock, null, 2)}\n`;
}

function renamed(lock: Lock, rename: (key: string) => string): Lock {
  const names = new Map<string, string>();
  const taken = new Set<string>();
  for (const key of Object.keys(lock.nodes)) {
    let name = key === lock.root ? key : rename(key);
    while (taken.has(name)) name += '_';
    taken.add(name);
    names.set(key, name);
  }
  const nodes = Object.fromEntries(
    Object.entries(lock.nodes).map(([key, node]) => [
      names.get(key)!,
      {
        ...node,
        ...(node.inputs && {
          inputs: Object.fromEntries(
            Object.entries(node.inputs).map(([name, edge]) => [
              name,
              typeof edge === 'string' ? (names.get(edge) ?? edge) : edge,
            ]),
          ),
        }),
      },
    ]),
  );
  return { ...lock, nodes };
}

function reaches(lock: Lock, from: string, to: string, seen = new Set<string>()): boolean {
  if (from === to) return true;
  if (seen.has(from)) return false;
  seen.add(from);
  return Object.values(lock.nodes[from]?.inputs ?? {}).some(
    (edge) => typeof edge === 'string' && reaches(lock, edge, to, seen),
  );
}

function reachesItself(lock: Lock): boolean {
  return Object.entries(lock.nodes).some(([key, { inputs }]) =>
    Object.values(inputs ?? {}).some((edge) => typeof edge === 'string' && reaches(lock, edge, key)),
  );
}
