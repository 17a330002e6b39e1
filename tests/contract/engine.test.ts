/** What every engine promises, over each that this machine has. */
import { join } from 'node:path';
import { silent } from '../../src/base/events.ts';
import { localEngine } from '../../src/build/engines/local.ts';
import { nixEngine } from '../../src/build/engines/nix.ts';
import { sandboxVariants } from '../support/builds.ts';
import { engineContract } from '../support/engine-contract.ts';
import { nixAvailable, nixPrograms } from '../support/nix.ts';

for (const { sandbox, usable } of sandboxVariants) {
  engineContract({
    title: `the local engine with ${sandbox}`,
    skipped: usable ? undefined : 'not usable on this machine',
    open: (store) => localEngine({ store, sandbox, reporter: silent }),
    streams: true,
  });
}

engineContract({
  title: 'the engine that hands builds to Nix',
  skipped: nixAvailable() ? undefined : 'no Nix, tests/engines/install gives one',
  open: (store) =>
    nixEngine({ store, program: join(nixPrograms(), 'nix'), systems: ['x86_64-linux'], features: [] }),
  unreachable: (store) => nixEngine({ store, program: '/no/nix', systems: ['x86_64-linux'], features: [] }),
  streams: true,
});
