/** What schemas/flake.schema.json has against a manifest, in words, each with its place. */
import { type Findings, nearest, type Range } from '../base/diagnostics.ts';
import { type SchemaFault, validate } from '../generated/flake-validator.js';
import { entriesOf, itemsOf, type Located, plainValue, quoteAdvice } from './manifest-yaml.ts';

export function checkSchema(root: Located, findings: Findings): void {
  if (validate(plainValue(root))) return;
  for (const fault of validate.errors ?? []) {
    if (findings.full) return;
    const finding = describe(fault, root);
    if (finding) findings.add(...finding);
  }
}

/** What the schema wants, in its own words; editors show the same. */
function patternAdvice(schema: unknown): string | undefined {
  const advice: unknown = Object(schema).patternErrorMessage;
  return typeof advice === 'string' ? advice : undefined;
}

interface Place {
  /** `packages.hello.version`. */
  readonly name: string;
  readonly value: Located;
  /** The key's range; the value's for items of lists and the whole file. */
  readonly key: Range;
}

/** Where a JSON pointer leads. */
function placeAt(root: Located, pointer: string): Place {
  const segments = pointer.split('/').slice(1);
  let place: Place = { name: '', value: root, key: root.range };
  for (const escaped of segments) {
    const segment = escaped.replaceAll('~1', '/').replaceAll('~0', '~');
    const entry = entriesOf(place.value).get(segment);
    const value = entry?.value ?? itemsOf(place.value)[Number(segment)];
    if (!value) break;
    const name = entry
      ? place.name === ''
        ? segment
        : `${place.name}.${segment}`
      : `${place.name}[${segment}]`;
    place = { name, value, key: entry?.key ?? value.range };
  }
  return place;
}

type Finding = Parameters<Findings['add']>;

/** Undefined where another fault of the same value says it better. */
function describe(fault: SchemaFault, root: Located): Finding | undefined {
  const place = placeAt(root, fault.instancePath);
  const { value } = place;
  const name = place.name || 'the manifest';
  const params = fault.params;
  switch (fault.keyword) {
    case 'type':
      return wrongType(place, wantedTypes(params.type));
    case 'additionalProperties': {
      const key = String(params.additionalProperty);
      const entry = entriesOf(value).get(key);
      const near = nearest(key, Object.keys(fault.parentSchema.properties ?? {}));
      const where = place.name === '' ? '' : ` in ${place.name}`;
      return [
        entry?.key ?? place.key,
        `unknown key "${key}"${where}`,
        near ? `did you mean ${near}?` : 'keys of your own begin with x-',
      ];
    }
    case 'required':
      return [place.key, `${name} has no ${String(params.missingProperty)}`];
    case 'propertyNames': {
      const key = String(params.propertyName);
      return [
        entriesOf(value).get(key)?.key ?? place.key,
        `"${key}" cannot be a name in ${name}`,
        patternAdvice(fault.schema),
      ];
    }
    case 'pattern':
      // A name's pattern is reported by the `propertyNames` around it.
      if (fault.schemaPath.includes('/propertyNames/')) return undefined;
      return [value.range, `${name} is not well formed`, patternAdvice(fault.parentSchema)];
    case 'minLength':
    case 'minItems':
      return [value.range, `${name} is empty`];
    case 'maxItems':
      return [value.range, `${name} has more than ${String(params.limit)} items`];
    case 'uniqueItems':
      return [
        itemsOf(value)[Math.max(Number(params.i), Number(params.j))]?.range ?? value.range,
        `${name} holds the same item twice`,
      ];
    case 'contains':
      return [value.range, `${name} must hold out`, 'add out'];
    case 'enum':
      return [value.range, `${name} must be ${allowedValues(params.allowedValues)}`];
    case 'const':
      // Only inside `contains`, which speaks for it.
      return undefined;
    case 'minimum':
    case 'maximum':
      return [
        value.range,
        `${name} must be ${fault.keyword === 'minimum' ? 'at least' : 'at most'} ${String(params.limit)}`,
      ];
    default:
      return [value.range, `${name} is not what the schema asks for (${fault.keyword})`];
  }
}

const allowedValues = (values: unknown): string =>
  Array.isArray(values) ? values.map(String).join(' or ') : String(values);

const typeNames: Readonly<Record<string, string>> = {
  string: 'text',
  object: 'a mapping',
  array: 'a list',
  boolean: 'true or false',
  integer: 'a whole number',
};

function wantedTypes(type: unknown): string[] {
  return (Array.isArray(type) ? type.map(String) : [String(type)]).filter((name) => name !== 'null');
}

function wrongType({ name, value }: Place, wanted: readonly string[]): Finding {
  const words = wanted.map((type) => typeNames[type] ?? type).join(' or ');
  const subject = name || 'the manifest';
  if (value.kind !== 'scalar') {
    const found = value.kind === 'map' ? 'a mapping' : 'a list';
    // A mapping's range is the whole block: its first line is place enough.
    return [value.range, `${subject} must be ${words}, not ${found}`];
  }
  const text = wanted.includes('string');
  if (value.value === null) {
    if (value.source.startsWith('#')) {
      return [value.range, `${subject} has no value: to YAML, # begins a comment`, quoteAdvice(value.source)];
    }
    if (value.source !== '' && text) {
      return [value.range, `${subject} must be ${words}, not nothing`, quoteAdvice(value.source)];
    }
    return [value.range, `${subject} has no value`, `give it ${words}, or remove it`];
  }
  const found = typeof value.value === 'string' ? 'text' : `the ${typeof value.value} ${value.source}`;
  const advice = text
    ? quoteAdvice(value.source)
    : wanted.includes('boolean') && /^(yes|on)$/i.test(value.source)
      ? 'write true'
      : wanted.includes('boolean') && /^(no|off)$/i.test(value.source)
        ? 'write false'
        : wanted.includes('array') && typeof value.value === 'string'
          ? `write a list: [${value.source}]`
          : undefined;
  return [value.range, `${subject} must be ${words}, not ${found}`, advice];
}
