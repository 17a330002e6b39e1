/** What a generated flake asks for, and the `flake.nix` that says so. */
import { Random } from './random.ts';

export interface InputSpec {
  readonly url?: string;
  /** Instead of `url`: type, url, ref … */
  readonly attributes?: Readonly<Record<string, string | number | boolean>>;
  /** `a/b`; empty for the flake itself. */
  readonly follows?: string;
  readonly flake?: boolean;
  readonly inputs?: Inputs;
  /** Which of the world's flakes it leads to; for who generates, not written. */
  readonly to?: number;
}

export type Inputs = Readonly<Record<string, InputSpec>>;

export interface FlakeSpec {
  readonly inputs: Inputs;
  /** Names in `outputs = { self, … }:`; undefined for `outputs = _:`. */
  readonly formals?: readonly string[];
  /** `inputs.self`: how the flake's own source is to be fetched. */
  readonly self?: Readonly<Record<string, boolean>>;
  /** Chooses between the ways to write the same thing. */
  readonly style: string;
  /** So that equal flakes in two places, or at two times, are not equal bytes. */
  readonly description: string;
}

/** The text of `flake.nix`. */
export function printFlake(spec: FlakeSpec): string {
  const random = new Random(spec.style);
  const lines = [`  description = ${text(spec.description)};`];
  const dotted = random.chance(0.5);
  for (const [name, value] of Object.entries(spec.self ?? {}))
    if (dotted) lines.push(`  inputs.self.${name} = ${value};`);
  const inputs = Object.entries(spec.inputs).map(([name, input]) => ({
    name: attribute(name),
    lines: inputLines(input, random),
  }));
  if (dotted)
    for (const { name, lines: own } of inputs) for (const line of own) lines.push(`  inputs.${name}.${line}`);
  else if (inputs.length > 0) {
    lines.push('  inputs = {');
    for (const { name, lines: own } of inputs)
      if (random.chance(0.5)) lines.push(`    ${name} = {`, ...own.map((line) => `      ${line}`), '    };');
      else for (const line of own) lines.push(`    ${name}.${line}`);
    lines.push('  };');
  }
  const formals = spec.formals?.map((name) => attribute(name));
  lines.push(
    formals === undefined
      ? '  outputs = _: { };'
      : `  outputs = { ${['self', ...formals].join(', ')} }: { };`,
  );
  return `{\n${lines.join('\n')}\n}\n`;
}

/** `url = …;`, `inputs.x.follows = …;`: what may follow an input's name and a dot. */
function inputLines(input: InputSpec, random: Random): string[] {
  const lines: string[] = [];
  const { url, attributes = {}, follows, flake, inputs } = input;
  if (url !== undefined) lines.push(`url = ${/^\.\.?\/[\w/-]+$/.test(url) ? path(url, random) : text(url)};`);
  for (const [name, value] of Object.entries(attributes))
    lines.push(`${name} = ${typeof value === 'string' ? text(value) : value};`);
  if (follows !== undefined) lines.push(`follows = ${text(follows)};`);
  if (flake !== undefined) lines.push(`flake = ${flake};`);
  for (const [name, inner] of Object.entries(inputs ?? {}))
    for (const line of inputLines(inner, random)) lines.push(`inputs.${attribute(name)}.${line}`);
  // An input that says nothing, as `inputs.x = { }`, has no dotted form.
  if (lines.length === 0) lines.push('inputs = { };');
  return random.chance(0.5) ? lines : random.shuffled(lines);
}

/** A path may be written as Nix's own path, or as a text. */
function path(url: string, random: Random): string {
  return random.chance(0.4) ? url : text(url);
}

function text(value: string): string {
  return `"${value.replace(/["\\]|\$\{/g, '\\$&')}"`;
}

function attribute(name: string): string {
  return /^[A-Za-z_][\w'-]*$/.test(name) ? name : text(name);
}
