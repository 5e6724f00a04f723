// The checks of the providers' own pages in Node.js, as they stand there: Quantiv ("Webhooks", Node.js), Iverton AI
// ("Verifying Webhooks", Node.js) and QuintaGo ("Webhooks", Express). Lines in: provider, secret, body, value, the last
// three in hex. Lines out: 1 or 0.
const crypto = require('crypto');

function quantiv(payload, signature, secret) {
  try {
    const cleanSignature = signature.replace('sha256=', '');
    const expectedSignature = crypto
      .createHmac('sha256', secret)
      .update(payload, 'utf8')
      .digest('hex');

    return crypto.timingSafeEqual(
      Buffer.from(cleanSignature, 'hex'),
      Buffer.from(expectedSignature, 'hex')
    );
  } catch (error) {
    return false;
  }
}

function iverton(payload, signature, secret) {
  const expected = crypto
    .createHmac('sha256', secret)
    .update(payload)
    .digest('hex');

  return crypto.timingSafeEqual(
    Buffer.from(signature),
    Buffer.from(`sha256=${expected}`)
  );
}

function quintago(payload, sig, secret) {
  const expected = crypto
    .createHmac('sha256', secret)
    .update(payload)
    .digest('hex');
  return sig === `sha256=${expected}`;
}

const checks = { quantiv, iverton, quintago };
const lines = require('readline').createInterface({ input: process.stdin });
lines.on('line', (line) => {
  const [provider, ...hex] = line.split('\t');
  const [secret, body, value] = hex.map((text) => Buffer.from(text, 'hex'));
  let good = false;
  try {
    good = checks[provider](body.toString('utf8'), value.toString('latin1'), secret.toString('utf8'));
  } catch (error) {
    // timingSafeEqual throws on another length: the page's code answers 500.
  }
  process.stdout.write(good ? '1\n' : '0\n');
});
