// An app with SuperTokens' own SDK, which is told that a core is where ringkeeper's daemon is:
// `node app.js PORT http://127.0.0.1:9465`. It verifies only; the environment is as for Python's.
import express from "express";
import supertokens from "supertokens-node";
import { errorHandler } from "supertokens-node/framework/express/index.js";
import Session from "supertokens-node/recipe/session/index.js";
import { verifySession } from "supertokens-node/recipe/session/framework/express/index.js";

const [port, keys] = process.argv.slice(2);
const cached = process.env.JWKS_REFRESH_INTERVAL_SEC;

supertokens.init({
  framework: "express",
  supertokens: { connectionURI: keys },
  appInfo: {
    appName: "app",
    apiDomain: `http://127.0.0.1:${port}`,
    websiteDomain: `http://127.0.0.1:${port}`,
  },
  recipeList: [
    Session.init({
      useDynamicAccessTokenSigningKey: process.env.USE_DYNAMIC_ACCESS_TOKEN_SIGNING_KEY !== "false",
      jwksRefreshIntervalSec: cached ? Number(cached) : undefined, // by default 4 hours
    }),
  ],
  telemetry: false,
});

const app = express();
app.get("/", verifySession(), (request, response) => {
  response.type("text").send(`hello ${request.session.getUserId()}`);
});
app.use(errorHandler());
app.listen(Number(port), "127.0.0.1");
