import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { commandsPage } from '../../support/commands-page.ts';

it('docs/commands.md says what the tables say (UPDATE_DOCS=1 writes it)', () => {
  const path = fileURLToPath(new URL('../../../docs/commands.md', import.meta.url));
  if (process.env.UPDATE_DOCS === '1' && process.env.CI !== 'true') writeFileSync(path, commandsPage());
  expect(readFileSync(path, 'utf8')).toBe(commandsPage());
});
