// Speaks to EC2 by the AWS SDK for JavaScript as its standard input says: a line of JSON each, {command, input}; the
// answers go to the standard output, in that order: {output}, or {error}. The endpoint, the region and the key are the
// environment's.
import { createInterface } from "node:readline";
import * as ec2 from "@aws-sdk/client-ec2";

const client = new ec2.EC2Client({ maxAttempts: 1 });

async function output({ command, input, pageSize }) {
  if (pageSize === undefined) {
    const { $metadata, ...told } = await client.send(new ec2[`${command}Command`](input));
    return { ...told, requestId: $metadata.requestId };
  }
  const pages = [];
  for await (const { $metadata, ...told } of ec2[`paginate${command}`]({ client, pageSize }, input)) pages.push(told);
  return { pages };
}

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { output: await output(JSON.parse(line)) };
  } catch (error) {
    const { httpStatusCode, requestId } = error.$metadata ?? {};
    answer = { error: { name: error.name, message: error.message, status: httpStatusCode, requestId } };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
