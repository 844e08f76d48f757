// Who followed a link to a page of the dashboard gets there: a redirect keeps what follows the #.
for (const form of document.forms) form.action += location.hash;
