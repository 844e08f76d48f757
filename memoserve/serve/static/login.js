// Who followed a link to a place in the dashboard gets there: a redirect keeps what follows the #.
for (const form of document.forms) form.action += location.hash;
