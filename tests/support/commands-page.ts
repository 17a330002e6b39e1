/** docs/commands.md, from the table that parses the command line. */
import { errorCodes } from '../../src/base/errors.ts';
import { spelling } from '../../src/cli/command-line.ts';
import { type CommandName, commands } from '../../src/cli/command-table.ts';
import { type OptionName, options } from '../../src/cli/options.ts';

const intro = `# Commands

Results go to stdout, everything else to stderr. \`flk COMMAND --help\` shows what stands here.

\`FLAKE\` is a flake reference: \`.\`, \`./dir\`, \`path:/dir\`, \`git+https://host/repo?ref=main\`, \`git+file:///repo?dir=sub\`. A path is looked
for upwards, to the root of its Git repository, until a folder has a \`flake.yaml\` or a \`flake.nix\`. \`FLAKE#NAME\` names a package of it, or an app or a shell (docs/shells.md),
\`#NAME\` one of the flake in this folder. Packages, and so \`build\`, \`run\`, \`shell\`, \`develop\`, \`check\` and \`show\`, are for \`flake.yaml\`; everything else is for both, but what edits a
manifest.
`;

const closing = `## Answers in JSON

With \`--json\` stdout holds one JSON document. When the command fails it is \`{"error": {code, message, facts, trail, diagnostics, hint}}\`,
where each diagnostic has \`file\`, \`line\`, \`column\`, \`endColumn\` (counted from one, in code points), \`message\` and perhaps \`suggestion\`.
What a person reads stands on stderr as without \`--json\`.

| Command | The document |
|---|---|
| \`lock\`, \`update\` | \`{lockFile, changed, written, changes}\`: the flake's lock (null where it cannot have one), whether it has or should get another content, the file that was written (null: none), and what moved |
| \`lock --check\` | as \`lock\` where the lock is current, else the error |
| \`metadata\`, \`prefetch\`, \`archive\`, \`show\` | what \`nix flake … --json\` prints |
| \`build\` | \`[{drvPath, outputs: {NAME: PATH}}]\`, as \`nix build --json\` |
| \`check\` | \`[{name, system, ok, drvPath, error}]\`: all that the flake offers, \`error\` as above where one has failed |
| \`develop --print-env\` | what \`nix print-dev-env --json\` prints |
| \`add\`, \`set\` | \`{name, …}\` and the keys that were written |
| \`remove\` | \`{removed: [NAME]}\` |
| \`pin\`, \`unpin\` | \`{name}\`, for \`pin\` with \`frozen\` or \`rev\` |
| \`init\` | \`{path, tracked}\` |
| \`hash path\`, \`hash file\` | \`[{path, hash}]\` |
| \`hash convert\` | \`[{from, hash}]\` |
| \`registry list\` | \`[{registry, from, to}]\`, the references as attributes |
| \`registry resolve\` | \`[{from, to}]\`, as text |
| \`registry add\`, \`remove\`, \`pin\` | \`{registry}\`: the file |
| \`explain\` | \`{code, exitStatus, explanation, hint}\` |

In \`changes\` each is \`{change, input, was, now}\`: \`change\` is \`added\`, \`removed\` or \`updated\`, \`input\` its path as a list of names;
\`was\` and \`now\` are null, \`{url, locked}\`, with \`tag\` where a version chose one, or \`{follows}\` with a path.

## Reports

On a terminal, flk shows what it is doing in a few lines that are redrawn; elsewhere it prints a line for each thing fetched or built, and a sign
of life every ten seconds. \`--log-format json\` prints each event as one line of JSON, as \`schemas/event.schema.json\` describes. Where
\`GITHUB_ACTIONS=true\`, errors are annotations at their line. Colours appear on a terminal only, and not where \`NO_COLOR\` is set.
What builders print is shown with \`-L\`; control characters and escape sequences are taken out of it.

## Exit status

| Status | Meaning |
|---|---|
| 0 | done, or the answer is yes |
| 1 | the answer is no: the lock is stale, a build failed |
| 2 | the command line, the manifest or the lock needs mending |
| 3 | network: try again |
| 4 | integrity: bytes are not what was promised |
| 70 | a bug in flk |
| 130 | interrupted |

\`flk run\`, \`flk shell\`, \`flk develop\` and \`flk fmt\` exit as what they start does.

Ctrl-C stops flk after it has cleaned up; a second one at once. Files are as they were before or as they should be after, never between.
`;

/** The whole page. */
export function commandsPage(): string {
  const parts = [intro];
  for (const name of Object.keys(commands) as CommandName[]) {
    const row = commands[name];
    parts.push(
      [
        `## flk ${name}`,
        '',
        '```',
        `flk ${name} ${row.args} [OPTIONS]`,
        '```',
        '',
        `${row.summary}.`,
        '',
        row.details,
        '',
        `Options: ${row.options.map((option) => `\`${spelling(option)}\``).join(', ')}.`,
        '',
      ].join('\n'),
    );
  }
  parts.push(
    [
      '## Options',
      '',
      '| Option | Meaning | Environment |',
      '|---|---|---|',
      ...(Object.keys(options) as OptionName[]).map(optionRow),
      '',
    ].join('\n'),
  );
  parts.push(closing);
  parts.push(
    [
      '## Error codes',
      '',
      'A code is never reused. `flk explain CODE` prints its text.',
      '',
      '| Code | Exit | Meaning |',
      '|---|---|---|',
      ...Object.entries(errorCodes).map(
        ([code, row]) => `| \`${code}\` | ${row.exit} | ${cell(row.explain)} |`,
      ),
      '',
    ].join('\n'),
  );
  return parts.join('\n');
}

function optionRow(name: OptionName): string {
  const row = options[name];
  return `| \`${spelling(name)}\` | ${cell(row.help)} | ${'env' in row ? `\`${row.env}\`` : ''} |`;
}

const cell = (text: string): string => text.replaceAll('|', '\\|');
