/** Whether Nix and flk did the same, and if not, the smallest case in which they do not. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, posix } from 'node:path';
import type { Compared, Outcome, Root } from './both.ts';
import type { Step } from './cases.ts';
import { type FlakeSpec, type InputSpec, type Inputs, printFlake } from './manifest.ts';
import { mayNotChange, refusalKind, sameRefusal } from './refusals.ts';
import type { World } from './world.ts';

/** In a few words: `locked`, `both refuse: circle of flakes`, or how they differ. */
export interface Verdict {
  readonly same: boolean;
  readonly words: string;
}

export function judge({ step, byNix, byFlk }: Compared): Verdict {
  if (byNix.kind === 'locked' && byFlk.kind === 'locked') {
    if (byNix.text === byFlk.text) return { same: true, words: 'locked' };
    return { same: false, words: 'other bytes' };
  }
  if (isGone(byFlk)) return { same: true, words: 'explained: old bytes are only in Nix’s store' };
  if (byNix.kind === 'locked') return { same: false, words: `only flk refuses: ${codeOf(byFlk)}` };
  const reason = refusalKind(byNix.message);
  if (byFlk.kind === 'locked') return { same: false, words: `only Nix refuses: ${reason}` };
  if (step.flags.includes('--no-update-lock-file') && mayNotChange.includes(byFlk.code))
    return { same: true, words: 'both refuse: lock may not change' };
  return sameRefusal(byNix.message, byFlk.code)
    ? { same: true, words: `both refuse: ${reason}` }
    : { same: false, words: `Nix refuses for: ${reason}; flk for: ${byFlk.code}` };
}

/**
 * A folder or an archive that is not what was locked any more, and was never here as it was. Nix finds that in its store, having
 * made the lock in which it stands, until the garbage is collected.
 */
function isGone(outcome: Outcome): boolean {
  return (
    outcome.kind === 'refused' &&
    outcome.code === 'FLK_NAR_HASH_MISMATCH' &&
    /"message": "(path:\S+|file:\S+\.tar\.gz) is not what was locked"/.test(outcome.message)
  );
}

function codeOf(outcome: Outcome): string {
  return outcome.kind === 'refused' ? outcome.code : '';
}

/**
 * Whether the two refuse for different reasons because there are two: without one of the root's inputs both refuse for the one that
 * flk told. What flk sees without fetching it tells first; Nix goes by the names.
 */
export async function hasTwoFaults(
  root: Root,
  world: World,
  { step, before, byNix, byFlk }: Compared,
): Promise<boolean> {
  if (byNix.kind !== 'refused' || byFlk.kind !== 'refused') return false;
  for (const smaller of smallerSteps(step)) {
    const tried = await root.compare(world, { ...smaller, lock: 'keep' }, before);
    if (judge(tried).same && tried.byFlk.kind === 'refused' && tried.byFlk.code === byFlk.code) return true;
  }
  return false;
}

/** How many times the two are run while a difference is made smaller. */
const patience = 200;

/** Leaves out what is not needed for the same difference. */
export async function shrink(root: Root, world: World, found: Compared): Promise<Compared> {
  const { words } = judge(found);
  let best = found;
  let runs = 0;
  const attempt = async (step: Step, before: string | undefined): Promise<boolean> => {
    if (runs++ > patience) return false;
    const tried = await root.compare(world, { ...step, lock: 'keep' }, before);
    const stays = judge(tried).words === words;
    if (stays) best = tried;
    return stays;
  };
  if (best.before !== undefined) await attempt(best.step, undefined);
  for (let again = true; again; ) {
    again = false;
    for (let index = 0; ; index++) {
      const smaller = smallerSteps(best.step)[index];
      if (smaller === undefined) break;
      // What follows in the list moves up to its place.
      if (await attempt(smaller, best.before)) {
        again = true;
        index--;
      }
    }
    for (const lock of smallerLocks(best.before)) if (await attempt(best.step, lock)) again = true;
  }
  return best;
}

function smallerSteps(step: Step): Step[] {
  const steps: Step[] = [];
  const { flags, updates, specs } = step;
  for (let i = 0; i < flags.length; i++) {
    const length = flags[i] === '--override-input' ? 3 : /^--(output|reference)-/.test(flags[i]!) ? 2 : 1;
    if (flags[i]?.startsWith('--')) steps.push({ ...step, flags: flags.toSpliced(i, length) });
  }
  // To update none is to update all.
  if (updates.length > 1)
    for (let i = 0; i < updates.length; i++) steps.push({ ...step, updates: updates.toSpliced(i, 1) });
  for (const [dir, spec] of specs) {
    const put = (smaller: FlakeSpec) => steps.push({ ...step, specs: new Map(specs).set(dir, smaller) });
    for (const inputs of smallerInputs(spec.inputs)) put({ ...spec, inputs });
    if (spec.formals) {
      const { formals, ...rest } = spec;
      put(rest);
    }
  }
  return steps;
}

function smallerInputs(inputs: Inputs): Inputs[] {
  const all: Inputs[] = [];
  for (const [name, input] of Object.entries(inputs)) {
    const { [name]: _, ...rest } = inputs;
    all.push(rest);
    for (const smaller of smallerInput(input)) all.push({ ...inputs, [name]: smaller });
  }
  return all;
}

function smallerInput(input: InputSpec): InputSpec[] {
  const { inputs, ...rest } = input;
  if (!inputs) return [];
  return [rest, ...smallerInputs(inputs).map((smaller) => ({ ...rest, inputs: smaller }))];
}

/** Without one of the root's inputs. */
function* smallerLocks(text: string | undefined): Iterable<string> {
  if (text === undefined) return;
  try {
    const lock = JSON.parse(text) as { root: string; nodes: Record<string, { inputs?: object }> };
    for (const [key, node] of Object.entries(lock.nodes))
      for (const name of Object.keys(node.inputs ?? {})) {
        const { [name]: _, ...inputs } = (node.inputs ?? {}) as Record<string, unknown>;
        const nodes = { ...lock.nodes, [key]: { ...node, inputs } };
        yield `${JSON.stringify({ ...lock, nodes }, null, 2)}\n`;
      }
  } catch {}
}

/** All that a person needs to see the difference. */
export function explainDifference(seed: string, root: Root, world: World, compared: Compared): string {
  const { step, before, byNix, byFlk } = compared;
  const command = root.arguments(step).join(' ');
  const parts = [`case ${seed}: ${judge(compared).words}`, `nix flake ${command}`];
  for (const [dir, spec] of usedSpecs(step))
    parts.push(`--- root/${posix.join(dir, 'flake.nix')}\n${printFlake(spec)}`);
  for (const flake of reachable(world, step)) {
    const { place, dir } = world.flakes[flake]!;
    const { files, refs } = place.moments[step.moments.get(place.name) ?? 0]!;
    const path = posix.join(dir, 'flake.nix');
    const lock = files.get(posix.join(dir, 'flake.lock'));
    const main = refs.get('refs/heads/main') ?? '';
    parts.push(`--- ${place.folder}/${path} ${main}\n${files.get(path)}`);
    if (lock !== undefined) parts.push(`--- its flake.lock\n${lock.slice(0, 6000)}`);
  }
  if (before !== undefined) parts.push(`--- flake.lock before\n${before}`);
  parts.push(
    byNix.kind === 'locked' && byFlk.kind === 'locked'
      ? `--- from Nix’s lock to flk’s\n${difference(byNix.text ?? '', byFlk.text ?? '')}`
      : `--- Nix: ${outcomeText(byNix)}\n--- flk: ${outcomeText(byFlk)}`,
  );
  return parts.join('\n');
}

function outcomeText(outcome: Outcome): string {
  return outcome.kind === 'locked' ? `locks\n${outcome.text ?? 'no file'}` : outcome.message.slice(0, 3000);
}

/** The root's own flake, and those of its folders that have inputs. */
function usedSpecs(step: Step): [string, FlakeSpec][] {
  return [...step.specs].filter(([, { inputs, formals }]) => Object.keys(inputs).length > 0 || formals);
}

function reachable(world: World, step: Step): number[] {
  const seen = new Set<number>();
  const visit = (inputs: Inputs) => {
    for (const { to, inputs: inner } of Object.values(inputs)) {
      visit(inner ?? {});
      if (to === undefined || seen.has(to)) continue;
      seen.add(to);
      const flake = world.flakes[to]!;
      visit(world.spec(flake, step.moments.get(flake.place.name) ?? 0)?.inputs ?? {});
    }
  };
  for (const { inputs } of step.specs.values()) visit(inputs);
  return [...seen];
}

function difference(nix: string, flk: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'flk-difference-'));
  try {
    writeFileSync(join(folder, 'nix'), nix);
    writeFileSync(join(folder, 'flk'), flk);
    return execFileSync('git', ['diff', '--no-index', '--', 'nix', 'flk'], { cwd: folder, encoding: 'utf8' });
  } catch (error) {
    // It ends with 1 where there is a difference.
    return (error as { stdout?: string }).stdout ?? String(error);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
