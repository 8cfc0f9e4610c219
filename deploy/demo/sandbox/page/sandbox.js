// Asks the sandbox once a second what is new and shows it.

import { element, link, message as slackMessage } from "./slack.js";

const EVERY_MS = 1000;
const AT_FIRST = 100; // the newest of each channel
const SHOWN = 300; // of each channel
const ZONE = "Asia/Seoul";
const CHANNELS = { smtp: "메일", slack: "Slack", aligo: "문자" };
const STAGES = {
  connect: "접속 때", ehlo: "EHLO 때", starttls: "STARTTLS 때", auth: "로그인 때", mail: "보낸 사람 확인 때", rcpt: "받는 사람 확인 때",
  data: "본문을 받기 전", remain: "잔여 건수 조회", list: "목록 조회", sms_list: "결과 조회",
};
const MISHAPS = [
  ["Slack이 500으로 답함 (3번)", { channel: "slack", status: 500, body: "rollup_error", times: 3 }],
  ["Slack이 너무 빠르다고 함 (429)", { channel: "slack", status: 429, body: "rate_limited", headers: { "Retry-After": "5" }, times: 3 }],
  ["Slack 웹훅이 없어짐 (404)", { channel: "slack", status: 404, body: "no_service" }],
  ["메일 서버가 잠시 거절 (451, 3번)", { channel: "smtp", status: 451, times: 3 }],
  ["메일 서버가 답하지 않음", { channel: "smtp", stage: "connect", hang: true }],
  ["메일을 받고 답 없이 끊음 (1번)", { channel: "smtp", drop: true, accept: true, times: 1 }],
  ["문자 잔액 부족 (-201)", { channel: "aligo", body: { result_code: -201, message: "발송 가능 건수가 부족합니다." } }],
  ["문자를 받고 답 없이 끊음 (1번)", { channel: "aligo", drop: true, accept: true, times: 1 }],
];

const $ = (selector) => document.querySelector(selector);
const format = (options) => new Intl.DateTimeFormat("ko-KR", { timeZone: ZONE, ...options });
const timeOnly = format({ hour: "2-digit", minute: "2-digit", hour12: true });
const dayOnly = format({ month: "long", day: "numeric", weekday: "short" });
const full = format({ dateStyle: "medium", timeStyle: "medium" });
const clock = (date) => timeOnly.format(date);

const state = { session: null, last: 0, view: null }; // the rest: start()

// Phone

function phoneNumber(digits) {
  const parts = /^(02|\d{3})(\d{3,4})(\d{4})$/.exec(digits);
  return parts ? parts.slice(1).join("-") : digits;
}

function withLinks(text) {
  return text.split(/(https?:\/\/[^\s<>"]+)/).map((part, index) => (index % 2 ? link(part, part) : part));
}

function bubble(sms) {
  const kind = sms.test ? "시험 모드 · 발송되지 않음" : `${sms.msg_type} · ${sms.bytes.toLocaleString("ko-KR")}바이트`;
  return element("div", sms.test ? "bubble test" : "bubble",
    sms.title ? element("b", "", sms.title) : null,
    element("p", "", ...withLinks(sms.msg)),
    element("small", "", clock(new Date(sms.time)), element("span", "", kind)));
}

function drawPhone() {
  const counts = new Map();
  for (const { receiver } of state.sms) counts.set(receiver, (counts.get(receiver) ?? 0) + 1);
  if (!counts.size) return;
  if (!counts.has(state.receiver)) [state.receiver] = counts.keys();
  $("#numbers").replaceChildren(...[...counts].map(([receiver, count]) => {
    const button = element("button", "", phoneNumber(receiver), element("b", "", String(count)));
    button.type = "button";
    button.ariaPressed = String(receiver === state.receiver);
    button.onclick = () => { state.receiver = receiver; drawPhone(); };
    return button;
  }));
  const shown = state.sms.filter(({ receiver }) => receiver === state.receiver);
  $("#sender").textContent = phoneNumber(shown.at(-1).sender);
  const rows = [];
  let day = null;
  for (const sms of shown) {
    const its = dayOnly.format(new Date(sms.time));
    if (its !== day) rows.push(element("p", "day", its));
    day = its;
    rows.push(bubble(sms));
  }
  $("#bubbles").replaceChildren(...rows);
  toEnd($("#bubbles"));
}

// Slack

function addSlack(post) {
  const channel = $("#channel");
  const its = dayOnly.format(new Date(post.time));
  if (channel.dataset.day !== its) channel.append(element("p", "day", element("span", "", its)));
  channel.dataset.day = its;
  channel.append(slackMessage(post, clock));
  while (channel.childElementCount > SHOWN) channel.firstElementChild.remove();
}

const atEnd = (box) => box.scrollHeight - box.scrollTop - box.clientHeight < 40;
const toEnd = (box) => { box.scrollTop = box.scrollHeight; };

// Mail

function sender(mail) {
  const named = /^\s*"?([^"<]*?)"?\s*<[^>]*>/.exec(mail.from);
  return named?.[1] || mail.from || mail.mail_from;
}

function mailRow(mail) {
  const text = (mail.text ?? mail.html?.replace(/<style[\s\S]*?<\/style>|<[^>]*>/g, " ") ?? "").replace(/\s+/g, " ").trim();
  const row = element("button", "unread",
    element("span", "from", sender(mail)), element("time", "", clock(new Date(mail.time))),
    element("span", "subject", mail.subject || "(제목 없음)"), element("span", "snippet", text.slice(0, 140)));
  row.type = "button";
  row.onclick = () => { document.body.dataset.reading = "yes"; open(mail.id); };
  return element("li", "", row);
}

function addMail(mail) {
  const row = mailRow(mail);
  state.mails.set(mail.id, { mail, row });
  $("#mails").prepend(row);
  if (state.mails.size > SHOWN) {
    const [oldest, { row: gone }] = state.mails.entries().next().value;
    gone.remove();
    state.mails.delete(oldest);
  }
}

function views(mail) {
  const found = [];
  if (mail.html !== null) {
    found.push(["html", "HTML", () => {
      const frame = document.createElement("iframe");
      frame.sandbox = "allow-popups allow-popups-to-escape-sandbox";
      frame.title = "메일 내용";
      frame.src = `/sandbox/messages/${mail.id}/html`;
      return frame;
    }]);
  }
  if (mail.text !== null) found.push(["text", "텍스트", () => element("pre", "plain", ...withLinks(mail.text))]);
  found.push(["raw", "원본", () => element("pre", "plain raw", mail.raw)]);
  return found;
}

function open(id) {
  state.mail = id;
  for (const { row } of state.mails.values()) row.firstChild.ariaCurrent = "false";
  const { mail, row } = state.mails.get(id);
  row.firstChild.ariaCurrent = "true";
  row.firstChild.classList.remove("unread");
  const choices = views(mail);
  const chosen = choices.find(([name]) => name === state.view) ?? choices[0];
  const tabs = choices.map((choice) => {
    const tab = element("button", "", choice[1]);
    tab.type = "button";
    tab.ariaPressed = String(choice === chosen);
    tab.onclick = () => { [state.view] = choice; open(id); };
    return tab;
  });
  const back = element("button", "back", "‹ 목록");
  back.type = "button";
  back.onclick = () => { delete document.body.dataset.reading; };
  const facts = element("dl", "");
  const fact = (name, value, kind = "") => facts.append(element("dt", "", name), element("dd", kind, value));
  fact("보낸 사람", mail.from || mail.mail_from);
  fact("받는 사람", mail.recipients.join(", "));
  const refused = Object.entries(mail.refused).map(([address, code]) => `${address} (${code})`);
  if (refused.length) fact("거절됨", refused.join(", "), "refused");
  fact("받은 때", full.format(new Date(mail.time)) + (mail.tls ? " · 🔒 TLS" : ""));
  if (mail.attachments.length) fact("첨부", mail.attachments.map(({ filename, content_type }) => filename ?? content_type).join(", "));
  $("#reader").replaceChildren(
    element("header", "", back, element("h3", "", mail.subject || "(제목 없음)"), facts, element("div", "tabs", ...tabs)), chosen[2]());
}

// What is wrong on purpose

function describe(one) {
  const words = [CHANNELS[one.channel]];
  if (STAGES[one.stage]) words.push(STAGES[one.stage]);
  if (one.delay) words.push(`${one.delay}초 늦게`);
  if (one.status) words.push(String(one.status));
  if (one.body !== undefined && one.body !== null) words.push(typeof one.body === "string" ? one.body : JSON.stringify(one.body));
  if (one.refuse) words.push(`${Object.entries(one.refuse).map(([who, code]) => `${who} ${code}`).join(", ")} 거절`);
  if (one.starttls === false) words.push("STARTTLS 없음");
  if (one.drop) words.push("답 없이 끊음");
  if (one.hang) words.push("답하지 않음");
  if (one.accept) words.push("받아 두기는 함");
  words.push(one.left === null ? "계속" : `${one.left}번 남음`);
  return words.join(" · ");
}

function drawBehaviours(behaviours) {
  $("#behaviour").hidden = !behaviours.length;
  $("#behaviour ul").replaceChildren(...behaviours.map((one) => element("li", "", describe(one))));
}

const send = (method, path, body) => fetch(`/sandbox/${path}`, {
  method, ...(body && { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }),
}).then(refresh);

// Live

const EMPTY = Object.fromEntries(["numbers", "bubbles", "channel", "mails", "reader"].map((id) => [id, [...$(`#${id}`).childNodes]]));

function start(session) { // anew when somebody emptied the sandbox, or when it was restarted
  Object.assign(state, { session, last: 0, sms: [], mails: new Map(), receiver: null, mail: null, counts: {} });
  for (const [id, nodes] of Object.entries(EMPTY)) $(`#${id}`).replaceChildren(...nodes);
  delete $("#channel").dataset.day;
  delete document.body.dataset.reading;
}

function add(messages) {
  const before = { ...state.counts };
  const follow = atEnd($("#channel")); // whoever reads further up is left there
  for (const one of messages) {
    state.last = Math.max(state.last, one.id);
    state.counts[one.channel] = (state.counts[one.channel] ?? 0) + 1;
    if (state.counts[one.channel] === 1) {
      if (one.channel === "slack") $("#channel").replaceChildren();
      if (one.channel === "smtp") $("#mails").replaceChildren();
    }
    if (one.channel === "slack") addSlack(one);
    else if (one.channel === "smtp") addMail(one);
    else state.sms.push(one);
  }
  state.sms.splice(0, state.sms.length - SHOWN);
  if (state.counts.aligo !== before.aligo) drawPhone();
  if (follow && state.counts.slack !== before.slack) toEnd($("#channel"));
  if (state.mail === null && state.mails.size) open([...state.mails.keys()].at(-1));
  for (const badge of document.querySelectorAll("[data-count]")) badge.textContent = state.counts[badge.dataset.count] ?? 0;
}

async function ask(path) {
  const response = await fetch(`/sandbox/${path}`, { cache: "no-store" });
  if (!response.ok) throw new Error(`${response.status}`);
  return response.json();
}

const messages = () => ask(`messages?after=${state.last}&limit=${AT_FIRST}`);

let asking = false;
async function refresh() {
  if (asking) return;
  asking = true;
  try {
    let [news, { behaviours }] = await Promise.all([messages(), ask("behaviour")]);
    if (news.session !== state.session) {
      start(news.session);
      news = await messages();
    }
    add(news.messages);
    drawBehaviours(behaviours);
    $("#live").textContent = "실시간";
    $("#live").classList.add("on");
  } catch {
    $("#live").textContent = "연결 끊김";
    $("#live").classList.remove("on");
  } finally {
    asking = false;
  }
  $("#clock").textContent = timeOnly.format(new Date()).replace(/^\S+ /, "");
}

function show(pane) {
  document.body.dataset.pane = pane;
  history.replaceState(null, "", `#${pane}`);
  for (const button of document.querySelectorAll("nav button")) button.ariaPressed = String(button.dataset.show === pane);
}

for (const button of document.querySelectorAll("nav button")) button.onclick = () => show(button.dataset.show);
show(["phone", "slack", "mail"].find((pane) => location.hash === `#${pane}`) ?? "slack");
$("#clear").onclick = () => send("DELETE", "messages");
$("#behave").onclick = () => send("DELETE", "behaviour");
$("#mishaps ul").replaceChildren(...MISHAPS.map(([label, behaviour]) => {
  const button = element("button", "", label);
  button.type = "button";
  button.onclick = () => { $("#mishaps").open = false; send("POST", "behaviour", behaviour); };
  return element("li", "", button);
}));
refresh();
setInterval(refresh, EVERY_MS);
