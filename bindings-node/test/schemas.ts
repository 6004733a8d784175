import { type } from "arktype";
import * as v from "valibot";
import * as z from "zod";

export const zod = { order: z.object({ item: z.string(), count: z.number() }), receipt: z.object({ total: z.number() }) };
export const valibot = { order: v.object({ item: v.string(), count: v.number() }), receipt: v.object({ total: v.number() }) };
export const arktype = { order: type({ item: "string", count: "number" }), receipt: type({ total: "number" }) };
