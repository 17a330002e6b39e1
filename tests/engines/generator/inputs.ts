/** The inputs that a generated flake asks for: which flakes, by which references, and what it overrides in them. */
import { posix } from 'node:path';
import type { FlakeSpec, InputSpec, Inputs } from './manifest.ts';
import type { Random } from './random.ts';
import type { Flake, Place, World } from './world.ts';

/** A flake as others refer to it. */
export interface Target {
  readonly place: Place;
  /** Empty for the place's own. */
  readonly dir: string;
  /** Among the world's flakes. */
  readonly index: number;
}

interface Request {
  readonly random: Random;
  readonly world: World;
  /** Who asks; `place` undefined for the root, whose folders `dirs` are flakes that it can reach by relative paths. */
  readonly from: { readonly place?: Place; readonly dir: string };
  readonly dirs?: readonly string[];
  readonly targets: readonly Flake[];
  readonly count: number;
  readonly moment: number;
}

const names = ['a', 'b', 'c', 'd', 'e', 'nixpkgs', 'flake-utils', 'a_2', 'b_2', 'root', 'x-y', 'B', 'a.b'];

/** Some that do not lead anywhere are among them, but few: a world of refusals would prove little. */
export function generateInputs(request: Request): Inputs {
  const { random, world, targets, count, moment } = request;
  const inputs: Record<string, InputSpec> = {};
  const free = random.shuffled(names.slice(0, random.chance(0.6) ? 5 : names.length));
  for (let i = 0; i < count && free.length > 0; i++) {
    const name = free.pop()!;
    const relatives = relativeTargets(request);
    if (relatives.length > 0 && random.chance(0.35)) {
      const { url, to } = random.pick(relatives);
      inputs[name] = { url, ...(random.chance(0.1) && { flake: false }), ...(to !== undefined && { to }) };
    } else if (random.chance(0.06)) {
      const [id, to] = random.pick([...world.known]);
      if (targets.some(({ index }) => index === to)) {
        const known = {
          ...random.pick([{ url: id }, { url: `flake:${id}` }, { attributes: { type: 'indirect', id } }]),
          to,
        };
        if (random.chance(0.3)) inputs[id] = { to };
        else inputs[name] = known;
      }
    } else if (random.chance(0.08)) {
      inputs[name] = { ...referenceTo({ place: random.pick(world.data), dir: '' }, random), flake: false };
    } else if (targets.length > 0) {
      const target = random.pick(targets);
      inputs[name] = {
        ...referenceTo(target, random, moment),
        ...(random.chance(0.1) && { flake: false }),
        to: target.index,
      };
    }
  }
  const specOf = (input: InputSpec | undefined): FlakeSpec | undefined =>
    input?.to === undefined || input.flake === false ? undefined : knownSpec(world, input.to, moment);
  for (const [name, input] of Object.entries(inputs)) {
    const inner = overrides(request, inputs, name, specOf(input), 0, specOf);
    if (Object.keys(inner).length > 0) inputs[name] = { ...input, inputs: inner };
  }
  for (const [name, input] of Object.entries(inputs)) {
    // A plain file, or a name for the registries.
    if (random.chance(0.01)) inputs[name] = { flake: false };
    else if (input.inputs && random.chance(0.02))
      inputs[name] = { follows: followTarget(request, inputs, name, specOf), inputs: input.inputs };
  }
  // A declared follow: of a sibling, of what a sibling has, or of the flake itself.
  const follower = free.pop();
  if (follower !== undefined && Object.keys(inputs).length > 0 && random.chance(0.3))
    inputs[follower] = {
      follows: random.chance(0.04) ? '' : followTarget(request, inputs, follower, specOf),
    };
  return inputs;
}

type SpecOf = (input: InputSpec | undefined) => FlakeSpec | undefined;

/** A flake's spec, where it has one by now. */
function knownSpec(world: World, index: number, moment: number): FlakeSpec | undefined {
  const flake = world.flakes[index];
  return flake && flake.place.moments.length > 0 ? world.spec(flake, moment) : undefined;
}

function namesIn(spec: FlakeSpec | undefined): string[] {
  return spec ? [...new Set([...Object.keys(spec.inputs), ...(spec.formals ?? [])])] : [];
}

/** What `inputs.NAME.inputs` says. */
function overrides(
  request: Request,
  siblings: Inputs,
  name: string,
  spec: FlakeSpec | undefined,
  depth: number,
  specOf: SpecOf,
): Inputs {
  const { random, targets, moment } = request;
  const inner: Record<string, InputSpec> = {};
  if (!spec) return inner;
  for (const child of namesIn(spec)) {
    const implied = !Object.hasOwn(spec.inputs, child);
    if (!implied && !random.chance(depth === 0 ? 0.35 : 0.5)) continue;
    if (implied && random.chance(0.05)) continue;
    const kind = random.weighted({
      follow: 45,
      url: 25,
      relative: 4,
      deeper: implied || depth > 2 ? 0 : 30,
      empty: 1,
      dangling: 0.4,
      nothing: implied ? 0 : 1,
    });
    const target = targets.length > 0 ? random.pick(targets) : undefined;
    if (kind === 'follow') inner[child] = { follows: followTarget(request, siblings, name, specOf) };
    else if (kind === 'url' && target)
      inner[child] = { ...referenceTo(target, random, moment), to: target.index };
    else if (kind === 'relative') {
      const [relative] = random.shuffled(relativeTargets(request));
      if (relative) inner[child] = { url: relative.url };
    } else if (kind === 'deeper') {
      const below = overrides(request, siblings, name, specOf(spec.inputs[child]), depth + 1, specOf);
      if (Object.keys(below).length > 0) inner[child] = { inputs: below };
    } else if (kind === 'empty') inner[child] = { follows: '' };
    else if (kind === 'dangling') inner[child] = { follows: 'nowhere' };
    else if (kind === 'nothing') inner[child] = {};
    // Whether an input is a flake is not for an override to say.
    if (inner[child] && random.chance(0.05)) inner[child] = { ...inner[child], flake: false };
    // An override may override in turn.
    const made = inner[child];
    if (made?.url !== undefined && made.to !== undefined && random.chance(0.2)) {
      const below = overrides(request, siblings, name, specOf(made), depth + 1, specOf);
      if (Object.keys(below).length > 0) inner[child] = { ...made, inputs: below };
    }
    if (implied && inner[child] === undefined)
      inner[child] = { follows: followTarget(request, siblings, name, specOf) };
  }
  if (random.chance(0.03)) inner.unheard = { follows: followTarget(request, siblings, name, specOf) };
  return inner;
}

function followTarget({ random }: Request, siblings: Inputs, name: string, specOf: SpecOf): string {
  const all = Object.keys(siblings);
  // Where each follows only those before it, they never do in a circle.
  const before = all.includes(name) ? all.slice(0, all.indexOf(name)) : all;
  const others = random.chance(0.06) ? all.filter((other) => other !== name) : before;
  const first = others.length === 0 ? name : random.pick(others);
  const path = [first];
  let spec = first === name && !random.chance(0.02) ? undefined : specOf(siblings[first]);
  while (spec && random.chance(0.35)) {
    const below = Object.keys(spec.inputs);
    if (below.length === 0) break;
    const next = random.pick(below);
    path.push(next);
    spec = specOf(spec.inputs[next]);
  }
  return path.join('/');
}

/** Flakes of the same tree, by paths relative to who asks. */
function relativeTargets({ world, from, dirs = [], random }: Request): { url: string; to?: number }[] {
  const own = from.place ? world.flakes.filter(({ place }) => place === from.place) : [];
  const asker = own.find(({ dir }) => dir === from.dir);
  const all: { dir: string; to?: number }[] = asker
    ? own.filter(({ level }) => level > asker.level).map(({ dir, index }) => ({ dir, to: index }))
    : dirs.filter((dir) => dir !== from.dir).map((dir) => ({ dir }));
  return all.map(({ dir, to }) => {
    const relative = posix.relative(`/${from.dir}`, `/${dir}`);
    const plain = relative === '' ? '.' : relative.startsWith('..') ? relative : `./${relative}`;
    const url = plain === '.' || plain === '..' || random.chance(0.5) ? `path:${plain}` : plain;
    return { url, ...(to !== undefined && { to }) };
  });
}

/** A reference, by url or by attributes. */
export function referenceTo(
  { place, dir }: { readonly place: Place; readonly dir: string },
  random: Random,
  moment = 0,
): Pick<InputSpec, 'url' | 'attributes'> {
  const inFolder: Record<string, string> = dir === '' ? {} : { dir };
  if (place.kind === 'folder') {
    if (random.chance(0.2)) return { attributes: { type: 'path', path: place.folder, ...inFolder } };
    const url = `path:${place.folder}${random.chance(0.05) ? '/' : ''}${query(inFolder)}`;
    return { url: random.chance(0.1) ? url.slice('path:'.length) : url };
  }
  if (place.kind === 'archive') {
    const url = `file://${place.folder}`;
    if (random.chance(0.2)) return { attributes: { type: 'tarball', url, ...inFolder } };
    return { url: `${random.chance(0.4) ? 'tarball+' : ''}${url}${query(inFolder)}` };
  }
  const known = place.moments[Math.min(moment, place.moments.length - 1)];
  const parameters: Record<string, string | boolean> = { ...inFolder };
  const kind = random.weighted({
    none: 10,
    main: 3,
    dev: 2,
    tag: 2,
    annotated: 1,
    shortTag: 0.15,
    rev: known ? 2 : 0,
    refAndRev: known ? 1 : 0,
    missing: 0.03,
  });
  const rev = () => random.pick(known!.revs);
  if (kind === 'main') parameters.ref = random.chance(0.3) ? 'refs/heads/main' : 'main';
  else if (kind === 'dev') parameters.ref = 'dev';
  else if (kind === 'tag') parameters.ref = 'refs/tags/v1';
  else if (kind === 'annotated') parameters.ref = 'refs/tags/v2';
  else if (kind === 'shortTag') parameters.ref = 'v1';
  else if (kind === 'missing') parameters.ref = 'nowhere';
  else if (kind === 'rev') parameters.rev = rev();
  else if (kind === 'refAndRev') Object.assign(parameters, { ref: 'main', rev: rev() });
  for (const [flag, probability] of [
    ['shallow', 0.06],
    ['submodules', 0.05],
    ['allRefs', 0.02],
    ['exportIgnore', 0.02],
  ] as const)
    if (random.chance(probability)) parameters[flag] = true;
  const url = `file://${random.chance(0.03) ? place.folder.replace(/\/(?=[^/]*$)/, random.pick(['//', '/./'])) : place.folder}${random.chance(0.03) ? '/' : ''}`;
  if (random.chance(0.2)) return { attributes: { type: 'git', url, ...parameters } };
  return { url: `git+${url}${query(parameters)}` };
}

function query(parameters: Readonly<Record<string, string | boolean>>): string {
  const parts = Object.entries(parameters).map(([name, value]) => `${name}=${value === true ? '1' : value}`);
  return parts.length === 0 ? '' : `?${parts.join('&')}`;
}
