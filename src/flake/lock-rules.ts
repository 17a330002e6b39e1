/** Where the two kinds of manifests part: the root's decides by which rules its lock is made. */
import type { LockGraph } from './graph.ts';
import type { FlakeManifest } from './manifest-model.ts';
import { NixResolution } from './nix-resolution.ts';
import type { InputPath } from './package-ref.ts';
import type { Resolution, ResolutionOptions } from './resolution.ts';
import { YamlResolution } from './yaml-resolution.ts';

export interface LockRules {
  resolve(options: ResolutionOptions): Resolution;
  /** Throws where a `follows` leads nowhere or in a circle. */
  checkFollows(graph: LockGraph): void;
  /** Which inputs an update of everything moves; `afresh`: the old lock is not looked at. */
  movable(manifest: FlakeManifest): readonly InputPath[] | 'afresh';
  /** A node that several inputs lead to counts as a lock to be written anew, with a node for each. */
  readonly splitsNodes: boolean;
  /** An update of an input that there is not is an error, not a notice. */
  readonly strictUpdates: boolean;
}

const nixRules: LockRules = {
  resolve: (options) => new NixResolution(options),
  checkFollows: (graph) => graph.checkAsNix(),
  movable: () => 'afresh',
  splitsNodes: true,
  strictUpdates: false,
};

const yamlRules: LockRules = {
  resolve: (options) => new YamlResolution(options),
  checkFollows: (graph) => graph.check(),
  movable: ({ inputs }) =>
    [...inputs].filter(([, input]) => !input.frozen && !input.follows).map(([name]) => [name]),
  splitsNodes: false,
  strictUpdates: true,
};

export function rulesOf({ kind }: FlakeManifest): LockRules {
  switch (kind) {
    case 'nix':
      return nixRules;
    case 'yaml':
      return yamlRules;
  }
}
