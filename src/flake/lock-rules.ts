/** Where the two kinds of manifests part: the root's decides by which rules its lock is made. */
import type { FlakeManifest } from './manifest-model.ts';
import { NixResolution } from './nix-resolution.ts';
import type { InputPath } from './package-ref.ts';
import type { Resolution, ResolutionOptions } from './resolution.ts';
import { YamlResolution } from './yaml-resolution.ts';

export interface LockRules {
  resolve(options: ResolutionOptions): Resolution;
  /** Which inputs an update of everything moves; `afresh`: the old lock is not looked at. */
  movable(manifest: FlakeManifest): readonly InputPath[] | 'afresh';
  /** An update of an input that there is not is an error, not a notice. */
  readonly strictUpdates: boolean;
}

const nixRules: LockRules = {
  resolve: (options) => new NixResolution(options),
  movable: () => 'afresh',
  strictUpdates: false,
};

const yamlRules: LockRules = {
  resolve: (options) => new YamlResolution(options),
  movable: ({ inputs }) =>
    [...inputs].filter(([, input]) => !input.frozen && !input.follows).map(([name]) => [name]),
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
