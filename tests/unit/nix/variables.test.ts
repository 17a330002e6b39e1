/* biome-ignore-all lint/suspicious/noTemplateCurlyInString: Nix has such holes in its strings too */
import { describe, expect, it } from 'vitest';
import { parseNix } from '../../../src/nix/parser.ts';
import { undefinedVariables } from '../../../src/nix/variables.ts';

function undefinedIn(text: string): string[] {
  return undefinedVariables(parseNix({ path: 'x.nix', text })).map(({ name, start, end }) => {
    expect(text.slice(start, end)).toBe(name);
    return `${name}@${start}`;
  });
}

describe('variables that nothing binds', () => {
  it.each([
    ['x', ['x@0']],
    ['x: x + y', ['y@7']],
    ['y: (x: x) x', ['x@10']],
    ['{ a, b ? a, c ? d }@e: [ a b c e ]', ['d@16']],
    ['a@{ b ? a }: b', []],
    ['let a = b; b = a; in a', []],
    ['[ (let a = 1; in a) a ]', ['a@20']],
    ['rec { a = b; b = 1; }', []],
    ['{ a = b; b = 1; }', ['b@6']],
    ['rec { inherit a; }', ['a@14']],
    ['let inherit a; in a', ['a@12']],
    ['let inherit (a) b; a = b; in b', []],
    ['{ inherit (a) b c; }', ['a@11']],
    ['{ inherit (a); }', ['a@11']],
    ['rec { inherit (a); inherit (b); a = 1; }', ['b@28']],
    ['{ x.y = 1; x = { inherit (a); }; }', ['a@26']],
    ['{ x = { inherit (a); }; x.y = 1; }', ['a@17']],
    ['rec { ${a} = 1; a = 2; }', []],
    ['{ ${a} = 1; a = 2; }', ['a@4']],
    ['with a; b', ['a@5']],
    ['[ (with { }; a) a ]', ['a@16']],
    ['a: a.${b} or c ? ${d}', ['b@7', 'c@13', 'd@19']],
    ["\"${a}\" + ''${b}'' + ./${c}", ['a@3', 'b@13', 'c@24']],
    ['assert a; if b then c else !d', ['a@7', 'b@13', 'c@20', 'd@28']],
    ['[ map __add builtins true <x> __curPos (1 - 2) ]', []],
    ['[ add __map __currentSystem ]', ['add@2', '__map@6', '__currentSystem@12']],
    ['let { body = a; a = b; }', ['b@20']],
  ])('finds those of %s', (text, found) => {
    expect(undefinedIn(text)).toEqual(found);
  });

  it('walks trees deeper than the stack', () => {
    expect(undefinedIn(`${'x: '.repeat(100_000)}${'x + '.repeat(100_000)}y`)).toEqual(['y@700000']);
  });
});
