import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { findAwsIdentity } from '../../../src/sources/aws-credentials.ts';
import { errorOf } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';

const inEnvironment = { AWS_ACCESS_KEY_ID: 'ENVID', AWS_SECRET_ACCESS_KEY: 'envsecret' };

function home(files: { readonly credentials?: string; readonly config?: string } = {}): { HOME: string } {
  const folder = temporaryFolder();
  mkdirSync(join(folder, '.aws'));
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, '.aws', name), text);
  return { HOME: folder };
}

const files = {
  credentials: `
# keys
[default]
aws_access_key_id = DEFAULTID
aws_secret_access_key = default/secret+=
[team]
aws_access_key_id=TEAMID
aws_secret_access_key=teamsecret   # of ours
aws_session_token=teamtoken
`,
  config: `[default]
region = eu-west-1
s3 =
  addressing_style = path
  aws_access_key_id = NESTED
[profile team]
region = eu-west-2
aws_access_key_id = OLDID
[profile login]
sso_session = corp
[profile role]
role_arn = arn:aws:iam::1:role/x
source_profile = default
[profile empty]
output = json
`,
};

describe('keys for buckets', () => {
  it('come from the environment, with the region', async () => {
    const env = { ...home(files), ...inEnvironment, AWS_SESSION_TOKEN: 'tok', AWS_REGION: 'eu-north-1' };
    expect(await findAwsIdentity(env, undefined)).toEqual({
      keys: { accessKeyId: 'ENVID', secretAccessKey: 'envsecret', sessionToken: 'tok' },
      origin: 'AWS_ACCESS_KEY_ID',
      region: 'eu-north-1',
    });
  });

  it('come from the default profile, or from the one that AWS_PROFILE names', async () => {
    expect(await findAwsIdentity(home(files), undefined)).toEqual({
      keys: { accessKeyId: 'DEFAULTID', secretAccessKey: 'default/secret+=' },
      origin: 'profile default',
      region: 'eu-west-1',
    });
    const team = {
      keys: { accessKeyId: 'TEAMID', secretAccessKey: 'teamsecret', sessionToken: 'teamtoken' },
      origin: 'profile team',
      region: 'eu-west-2',
    };
    expect(await findAwsIdentity({ ...home(files), AWS_PROFILE: 'team' }, undefined)).toEqual(team);
    // A profile in the address is meant, whatever the environment has.
    expect(await findAwsIdentity({ ...home(files), ...inEnvironment }, 'team')).toEqual(team);
  });

  it('come from files that the environment names', async () => {
    const elsewhere = temporaryFolder();
    writeFileSync(join(elsewhere, 'keys'), files.credentials);
    const env = { ...home(), AWS_SHARED_CREDENTIALS_FILE: join(elsewhere, 'keys') };
    expect((await findAwsIdentity(env, undefined)).keys?.accessKeyId).toBe('DEFAULTID');
  });

  it('are none where nobody has set any: then it says so', async () => {
    expect(await findAwsIdentity(home(), undefined)).toEqual({ origin: 'no AWS credentials were found' });
    const pod = { ...home(), AWS_WEB_IDENTITY_TOKEN_FILE: '/token' };
    expect((await findAwsIdentity(pod, undefined)).origin).toBe(
      'AWS_WEB_IDENTITY_TOKEN_FILE, which flk does not use',
    );
    const sso = home({ config: '[default]\nsso_session = corp\n' });
    expect((await findAwsIdentity(sso, undefined)).origin).toBe(
      'profile default says a login by SSO, which flk does not use',
    );
  });

  it.each([
    ['nobody', 'there is no AWS profile nobody'],
    ['login', 'the AWS profile login gets its keys by a login by SSO, which flk does not do'],
    ['role', 'the AWS profile role gets its keys by a role, which flk does not do'],
    ['empty', 'the AWS profile empty holds no keys'],
  ])('are asked of profile %s in vain', async (profile, message) => {
    const thrown = await errorOf(findAwsIdentity(home(files), profile));
    expect(thrown).toMatchObject({ code: 'FLK_SETTINGS_INVALID', message });
    expect(thrown.hint).toContain('aws configure');
  });

  it('are not repeated where they are none', async () => {
    const env = { ...home(), AWS_ACCESS_KEY_ID: 'ID\nhush', AWS_SECRET_ACCESS_KEY: 'hush' };
    const thrown = await errorOf(findAwsIdentity(env, undefined));
    expect(thrown.code).toBe('FLK_SETTINGS_INVALID');
    expect(JSON.stringify([thrown.message, thrown.facts, thrown.hint])).not.toContain('hush');
  });
});
