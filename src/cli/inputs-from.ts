/** `--inputs-from FLAKE`: for this run, the names of that flake's inputs mean what its lock says. */
import { LockGraph } from '../flake/graph.ts';
import type { Context } from './context.ts';
import { openFlake } from './flake.ts';
import { lockAsItIs } from './locking.ts';

/** Before anything is looked up. Throws what opening and locking those flakes throw; writes nothing. */
export async function applyInputsFrom(context: Context): Promise<void> {
  for (const target of context.flags['inputs-from']) {
    const lock = await lockAsItIs(context, await openFlake(context, target));
    const graph = new LockGraph(lock);
    const registries = await context.registries();
    for (const name of graph.node(lock.root).inputs.keys()) {
      const { locked } = graph.node(graph.find([name]));
      if (locked) registries.override({ type: 'indirect', id: name }, locked);
    }
  }
}
