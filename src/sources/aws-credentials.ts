/**
 * Keys for buckets, found where Amazon's tools look: the environment, then a profile in ~/.aws. Only keys that stand there: what a
 * program, a login or a machine's own service would have to give out is named, not asked.
 */
import { isAbsolute, join } from 'node:path';
import { FlkError } from '../base/errors.ts';
import { homeFolder, readFileIfExists } from '../base/files.ts';

export interface AwsKeys {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
}

export interface AwsIdentity {
  /** Undefined: requests go out unsigned, as for a bucket that anybody may read. */
  readonly keys?: AwsKeys;
  /** Where the keys stand, or why there are none: for messages. */
  readonly origin: string;
  readonly region?: string;
}

const maxSize = 2 ** 20;

/** A profile that is named has to have keys: FLK_SETTINGS_INVALID. Also throws FLK_FILE_UNREADABLE and FLK_LIMIT. */
export async function findAwsIdentity(
  env: NodeJS.ProcessEnv,
  profile: string | undefined,
): Promise<AwsIdentity> {
  const region = env.AWS_REGION || env.AWS_DEFAULT_REGION;
  const inEnvironment = keysOf(env.AWS_ACCESS_KEY_ID, env.AWS_SECRET_ACCESS_KEY, env.AWS_SESSION_TOKEN);
  // Who names a profile means it, whatever is in the environment.
  if (profile === undefined && inEnvironment)
    return { keys: inEnvironment, origin: 'AWS_ACCESS_KEY_ID', ...(region && { region }) };
  const named = profile ?? (env.AWS_PROFILE || undefined);
  const found = await readProfile(env, named ?? 'default');
  const about = `profile ${named ?? 'default'}`;
  const said = region ?? found?.values.get('region');
  const keys = keysOf(
    found?.values.get('aws_access_key_id'),
    found?.values.get('aws_secret_access_key'),
    found?.values.get('aws_session_token'),
  );
  if (keys) return { keys, origin: about, ...(said && { region: said }) };
  const other = [...otherWays].find(([name]) => found?.values.has(name))?.[1];
  if (named !== undefined) throw noKeys(named, found, other);
  const service = services.find((name) => env[name]);
  const origin =
    other === undefined && service === undefined
      ? 'no AWS credentials were found'
      : `${other === undefined ? service : `${about} says ${other}`}, which flk does not use`;
  return { origin, ...(said && { region: said }) };
}

/** Ways to keys that a profile may name, by what it says. */
const otherWays: ReadonlyMap<string, string> = new Map([
  ['sso_session', 'a login by SSO'],
  ['sso_start_url', 'a login by SSO'],
  ['login_session', 'a login in the browser'],
  ['role_arn', 'a role'],
  ['credential_process', 'a program'],
  ['web_identity_token_file', 'a web identity'],
]);

/** Variables that lead to keys which some service gives out. */
const services = [
  'AWS_WEB_IDENTITY_TOKEN_FILE',
  'AWS_CONTAINER_CREDENTIALS_RELATIVE_URI',
  'AWS_CONTAINER_CREDENTIALS_FULL_URI',
];

function keysOf(id: string | undefined, secret: string | undefined, token?: string): AwsKeys | undefined {
  if (!id || !secret) return undefined;
  // In words that do not repeat them.
  if (![id, secret, token || '-'].every((word) => /^[\u0021-\u007e]{1,8192}$/.test(word)))
    throw new FlkError('FLK_SETTINGS_INVALID', 'an AWS key or session token has characters that none has');
  return { accessKeyId: id, secretAccessKey: secret, ...(token && { sessionToken: token }) };
}

function noKeys(name: string, found: Profile | undefined, other: string | undefined): FlkError {
  const shown = name.slice(0, 80);
  if (!found)
    return new FlkError('FLK_SETTINGS_INVALID', `there is no AWS profile ${shown}`, {
      hint: 'aws configure list-profiles shows those there are; ~/.aws/credentials and ~/.aws/config hold them',
    });
  const what = other === undefined ? 'holds no keys' : `gets its keys by ${other}, which flk does not do`;
  return new FlkError('FLK_SETTINGS_INVALID', `the AWS profile ${shown} ${what}`, {
    facts: { read: found.files.join(', ') },
    hint: `eval "$(aws configure export-credentials --profile ${shown} --format env)", and no profile= in the address`,
  });
}

interface Profile {
  readonly values: ReadonlyMap<string, string>;
  readonly files: readonly string[];
}

/** What both files say of a profile; of one setting, what the file of credentials says. */
async function readProfile(env: NodeJS.ProcessEnv, name: string): Promise<Profile | undefined> {
  const folder = join(homeFolder(env), '.aws');
  const place = (given: string | undefined, usual: string): string =>
    given !== undefined && isAbsolute(given) ? given : join(folder, usual);
  const credentials = place(env.AWS_SHARED_CREDENTIALS_FILE, 'credentials');
  const config = place(env.AWS_CONFIG_FILE, 'config');
  const sections = await Promise.all([
    readSection(config, name === 'default' ? ['default', 'profile default'] : [`profile ${name}`]),
    readSection(credentials, [name]),
  ]);
  const found = sections.filter((section) => section !== undefined);
  if (found.length === 0) return undefined;
  return { values: new Map(found.flatMap((section) => [...section])), files: [config, credentials] };
}

/** The lines `name = value` below one of these headings. Lines that are indented belong to the one above: no key is among them. */
async function readSection(
  path: string,
  headings: readonly string[],
): Promise<ReadonlyMap<string, string> | undefined> {
  const text = (await readFileIfExists(path, maxSize))?.toString();
  let section: Map<string, string> | undefined;
  let inside = false;
  for (const line of text?.split(/\r?\n/) ?? []) {
    const heading = /^\s*\[([^\]]*)\]/.exec(line)?.[1]?.trim().replace(/\s+/g, ' ');
    if (heading !== undefined) {
      inside = headings.includes(heading);
      if (inside) section ??= new Map();
    }
    const [, name, value = ''] = /^([^\s=#;[][^\s=]*)\s*=\s*(.*?)\s*(?:\s[#;].*)?$/.exec(line) ?? [];
    if (inside && name !== undefined) section?.set(name.toLowerCase(), value);
  }
  return section;
}
