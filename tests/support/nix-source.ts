/** Random texts in the Nix language. */
import fc from 'fast-check';

const name = fc.constantFrom('a', 'b', 'c', 'd', "x'", 'a-b', '_y', 'or', 'map', 'true');
const plainName = fc.constantFrom('a', 'b', 'c', 'd', "x'", 'a-b', '_y');
const space = fc.constantFrom(' ', ' ', ' ', '\n', '  ', '\t', ' # x\n', ' /* y */ ', '/**/');

const join = (...parts: (fc.Arbitrary<string> | string)[]): fc.Arbitrary<string> =>
  fc
    .tuple(...parts.map((part) => (typeof part === 'string' ? fc.constant(part) : part)))
    .map((all) => all.join(''));

const many = (item: fc.Arbitrary<string>, max: number, min = 0): fc.Arbitrary<string> =>
  fc.array(item, { minLength: min, maxLength: max }).map((all) => all.join(''));

/** Expressions as text: mostly within the language, and now and then not (a duplicate, two comparisons in a row). */
export const nixSource: fc.Arbitrary<string> = fc.letrec<
  Record<'expr' | 'op' | 'simple' | 'attrName' | 'binding', string>
>((tie) => {
  const depth = { maxDepth: 5, depthIdentifier: 'nix' };
  const hole = join('${', tie('expr'), '}');
  const string = join(
    '"',
    many(
      fc.oneof(
        fc.constantFrom(
          'x',
          ' ',
          '$',
          '$$',
          '\\n',
          '\\"',
          '\\${',
          '\\\\',
          "'",
          '\n',
          '\r\n',
          '\r',
          '{',
          '}',
          'é',
          '#',
          '\\t',
          '\\q',
          '$\\$',
        ),
        hole,
      ),
      4,
    ),
    '"',
  );
  const indented = join(
    "''",
    many(
      fc.oneof(
        fc.constantFrom(
          'x',
          ' ',
          '  ',
          '\n',
          '\n  ',
          '\n    ',
          '$',
          '$$',
          "''$",
          "'''",
          "''\\n",
          "''\\ ",
          "'y",
          '{',
          '\t',
          'é',
          '\\',
          '"',
          '\r\n',
        ),
        hole,
      ),
      8,
    ),
    "''",
  );
  const path = fc.oneof(
    fc.constantFrom('./a', '../b', 'a/b', '/x/../y', '/x', '~/h', './.', 'a.b/c-d', './a/./b', '1/2'),
    join(
      fc.constantFrom('./', 'a/', '/', '~/', './a', './a-'),
      hole,
      fc.constantFrom('', '/b', '-c', 'd/e', '.f'),
    ),
    join(fc.constantFrom('./a/', './a/b'), hole, hole),
  );
  const atom = fc.oneof(
    plainName,
    name,
    fc.constantFrom(
      '0',
      '1',
      '42',
      '007',
      '1.5',
      '.25',
      '1.',
      '1.e3',
      '2.5E-3',
      '123456789.0',
      '9223372036854775807',
    ),
    fc.constantFrom(
      '__curPos',
      '<nixpkgs>',
      '<a/b-c>',
      'x:y',
      'http://a.b/c?d=e',
      '"s"',
      '[ ]',
      '{ }',
      'rec { }',
    ),
  );
  const formal = fc.oneof(plainName, join(plainName, ' ? ', tie('expr')));
  const formals = fc.oneof(
    fc.constantFrom('{ }', '{ ... }'),
    join('{ ', formal, fc.constantFrom(' }', ', }', ', ... }')),
    join('{ ', formal, ', ', formal, fc.constantFrom(' }', ',}', ', ... }')),
  );
  const head = fc.oneof(
    join(plainName, ': '),
    join(formals, ': '),
    join(formals, fc.constantFrom('@', ' @ '), plainName, ': '),
    join(plainName, fc.constantFrom('@', ' @ '), formals, ': '),
    join('assert ', tie('expr'), '; '),
    join('with ', tie('expr'), '; '),
    join('let ', many(tie('binding'), 3), 'in '),
    join('if ', tie('expr'), ' then ', tie('expr'), ' else '),
  );
  const attrPath = fc.oneof(
    { weight: 3, arbitrary: tie('attrName') },
    { weight: 1, arbitrary: join(tie('attrName'), '.', tie('attrName')) },
  );
  const infix = fc.constantFrom(
    '->',
    '||',
    '&&',
    '==',
    '!=',
    '<',
    '>',
    '<=',
    '>=',
    '//',
    '+',
    '-',
    '*',
    '/',
    '++',
  );
  return {
    attrName: fc.oneof(
      { weight: 6, arbitrary: plainName },
      { weight: 1, arbitrary: fc.constantFrom('or', '"q"', '"r s"', '"if"', '""', `\${"a"}`) },
      { weight: 1, arbitrary: string },
      { weight: 1, arbitrary: hole },
    ),
    binding: fc.oneof(
      { weight: 5, arbitrary: join(attrPath, ' = ', tie('expr'), '; ') },
      { weight: 1, arbitrary: join(attrPath, ' = { ', many(tie('binding'), 2), '}; ') },
      {
        weight: 1,
        arbitrary: join('inherit ', many(join(fc.oneof(plainName, fc.constant('"q"')), ' '), 2), '; '),
      },
      { weight: 1, arbitrary: join('inherit (', tie('expr'), ') ', many(join(plainName, ' '), 2), '; ') },
    ),
    simple: fc.oneof(
      depth,
      atom,
      string,
      indented,
      path,
      join('(', tie('expr'), ')'),
      join('[ ', many(join(tie('simple'), space), 3), ']'),
      join('{ ', many(tie('binding'), 4), '}'),
      join('rec { ', many(tie('binding'), 3), '}'),
      join('let { ', many(tie('binding'), 2), 'body = 1; }'),
      join(tie('simple'), '.', attrPath),
      join(tie('simple'), '.', attrPath, ' or ', tie('simple')),
    ),
    op: fc.oneof(
      depth,
      tie('simple'),
      join(tie('simple'), space, tie('simple')),
      join(tie('simple'), space, tie('simple'), space, tie('simple')),
      join(tie('op'), space, infix, space, tie('op')),
      join(tie('op'), ' ', infix, ' ', tie('op'), ' ', infix, ' ', tie('op')),
      join(tie('op'), ' ? ', attrPath),
      join(fc.constantFrom('!', '-', '! ', '- '), tie('op')),
    ),
    expr: fc.oneof(
      depth,
      { weight: 3, arbitrary: tie('op') },
      { weight: 1, arbitrary: join(head, tie('expr')) },
    ),
  };
}).expr;
