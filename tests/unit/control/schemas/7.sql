BEGIN TRANSACTION;
CREATE TABLE access_keys (
	access_key_id TEXT NOT NULL, 
	sealed_secret BLOB NOT NULL, 
	created_at_s FLOAT NOT NULL, 
	user_id TEXT DEFAULT '' NOT NULL, 
	active BOOLEAN DEFAULT 1 NOT NULL, 
	account_id TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (access_key_id)
);
INSERT INTO "access_keys" VALUES('AKIAB6DB2THBFRJ7J7BT',X'EC75921E2814295157E1E8988615A1AE1A603634BC07D188739940E1C7995F3CC20B5BB98511C43AB65CE720BB545352F7927608BC5EEE08E75F41781FF015E988CDCFF9',1.79549708420370626445e+09,'',1,'');
INSERT INTO "access_keys" VALUES('AKIAQIYRSOWUTNY4CVMO',X'C08F877D40F24105678F8EC16936128EBEFD03D5F2AE6ABF8B180F53031A58DAE1D42EEB8D4DA3EA1407C1A8AED8B280096856CF65273E0E94864561962DE4664340E291',1.79549708504979920386e+09,'',1,'666464693390');
INSERT INTO "access_keys" VALUES('AKIAVFDNQLF5MI4VLZSD',X'4EF0FA3E2F83F34C5CEA324BAEE8079B912438B237EF6EA28DB4508E3780DAD619C073504149B1A8BADA9C59534E31B49CD6CC2F5758F68D380B0844BAC66BE5389419C2',1.79549708511907100678e+09,'AIDAYDTAX3XQRINVGV5TM',1,'');
CREATE TABLE accounts (
	account_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	created_at_s FLOAT NOT NULL, 
	PRIMARY KEY (account_id), 
	UNIQUE (name)
);
INSERT INTO "accounts" VALUES('666464693390','red',1.79549708504979920386e+09);
CREATE TABLE assignments (
	subject TEXT NOT NULL, 
	account_id TEXT NOT NULL, 
	PRIMARY KEY (subject)
);
INSERT INTO "assignments" VALUES('eni-77ca4f9bea9a619be','666464693390');
CREATE TABLE carried_figures (
	subject TEXT NOT NULL, 
	packets BIGINT NOT NULL, 
	bytes BIGINT NOT NULL, 
	written_packets BIGINT NOT NULL, 
	written_bytes BIGINT NOT NULL, 
	PRIMARY KEY (subject)
);
INSERT INTO "carried_figures" VALUES('tms-b23a154f7e6a7988a',7,700,0,0);
INSERT INTO "carried_figures" VALUES('101 10.0.0.20 10.0.0.12',6,600,6,600);
CREATE TABLE ended_sessions (
	session_id TEXT NOT NULL, 
	sent_packets BIGINT NOT NULL, 
	sent_bytes BIGINT NOT NULL, 
	ended_at_s FLOAT NOT NULL, 
	PRIMARY KEY (session_id)
);
INSERT INTO "ended_sessions" VALUES('tms-e4f41b239fbd28061',5,500,1.79549708467976093292e+09);
CREATE TABLE filter_rules (
	rule_id TEXT NOT NULL, 
	filter_id TEXT NOT NULL, 
	direction TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	action TEXT NOT NULL, 
	source TEXT NOT NULL, 
	destination TEXT NOT NULL, 
	protocol INTEGER, 
	source_port_first INTEGER, 
	source_port_last INTEGER, 
	destination_port_first INTEGER, 
	destination_port_last INTEGER, 
	description TEXT, 
	account_id TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (rule_id), 
	UNIQUE (filter_id, direction, number), 
	FOREIGN KEY(filter_id) REFERENCES filters (filter_id)
);
INSERT INTO "filter_rules" VALUES('tmfr-3efa85e7cab3b6ef9','tmf-25b15e1f79456367b','ingress',10,'accept','10.0.0.0/8','0.0.0.0/0',6,NULL,NULL,22,22,'ssh','');
CREATE TABLE filters (
	filter_id TEXT NOT NULL, 
	services TEXT NOT NULL, 
	description TEXT, 
	account_id TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (filter_id)
);
INSERT INTO "filters" VALUES('tmf-25b15e1f79456367b','amazon-dns',NULL,'');
CREATE TABLE host_certificates (
	serial TEXT NOT NULL, 
	host_id TEXT NOT NULL, 
	ends_at_s FLOAT NOT NULL, 
	revoked_at_s FLOAT, 
	PRIMARY KEY (serial)
);
INSERT INTO "host_certificates" VALUES('1ef3f3e896dcf382e1d5941969a5b2339f8af45f','host-2',1798089084.0,NULL);
CREATE TABLE hosts (
	host_id TEXT NOT NULL, 
	agent_version TEXT NOT NULL, 
	reported_at_s FLOAT NOT NULL, 
	PRIMARY KEY (host_id)
);
INSERT INTO "hosts" VALUES('host-1','test',1.79549708436380672455e+09);
CREATE TABLE idempotency_tokens (
	token_key TEXT NOT NULL, 
	fingerprint TEXT NOT NULL, 
	result TEXT NOT NULL, 
	created_at_s FLOAT NOT NULL, 
	PRIMARY KEY (token_key)
);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorFilter/once','296cfa9c63de6a4b35659f4d7e08c634a9ec63c2b772fd3ea6f6665b8f729a21','{"TrafficMirrorFilter":{"TrafficMirrorFilterId":"tmf-25b15e1f79456367b","Description":null,"IngressFilterRules":[],"EgressFilterRules":[],"NetworkServices":[],"Tags":[{"Key":"Name","Value":"ssh – all"}]},"ClientToken":"once"}',1.79549708455420136453e+09);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorFilterRule/5c1bf555-34a4-4473-b2ab-2aaddf64e218','80e5f9562b74543fa0bb5b5b4cd69b98d5635683ba68a03d1e033ef4abb7dc2d','{"TrafficMirrorFilterRule":{"TrafficMirrorFilterRuleId":"tmfr-3efa85e7cab3b6ef9","TrafficMirrorFilterId":"tmf-25b15e1f79456367b","TrafficDirection":"ingress","RuleNumber":10,"RuleAction":"accept","Protocol":6,"DestinationPortRange":{"FromPort":22,"ToPort":22},"SourcePortRange":null,"DestinationCidrBlock":"0.0.0.0/0","SourceCidrBlock":"10.0.0.0/8","Description":"ssh"},"ClientToken":"5c1bf555-34a4-4473-b2ab-2aaddf64e218"}',1.79549708457294869426e+09);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorTarget/3569b663-17da-415e-a027-55bdac08a6c3','30baee7105904d1d7d927f715259d33e2d56891cae5d18cbf979db18a37941a5','{"TrafficMirrorTarget":{"TrafficMirrorTargetId":"tmt-9762fd7bad394c1bf","Description":"collector","OwnerId":"933374668161","Tags":[],"Type":"network-interface","NetworkInterfaceId":"eni-b9cfc1b2e1085a703"},"ClientToken":"3569b663-17da-415e-a027-55bdac08a6c3"}',1.79549708457994961745e+09);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorTarget/31bc2816-06d0-4e6b-abec-78f0e6662a36','e2115de976b7273de53ade84b008bc6be7372818d10314baf568b0bd135ab81e','{"TrafficMirrorTarget":{"TrafficMirrorTargetId":"tmt-87911a607ff1c041a","Description":null,"OwnerId":"933374668161","Tags":[],"Type":"network-load-balancer","NetworkLoadBalancerArn":"arn:aws:elasticloadbalancing:us-east-1:111122223333:loadbalancer/net/NLB/7cdec873EXAMPLE"},"ClientToken":"31bc2816-06d0-4e6b-abec-78f0e6662a36"}',1.79549708458576846121e+09);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorTarget/5951176d-4b3f-47e1-8d04-627832796bd4','d21cf90105fa961ab47e1ccf12c2d8ffdc8614bfc8ea6723b7411f354bfac23e','{"TrafficMirrorTarget":{"TrafficMirrorTargetId":"tmt-062cb6a1ddfa2be12","Description":null,"OwnerId":"933374668161","Tags":[],"Type":"gateway-load-balancer-endpoint","GatewayLoadBalancerEndpointId":"vpce-0123456789abcdef0"},"ClientToken":"5951176d-4b3f-47e1-8d04-627832796bd4"}',1.79549708458905148502e+09);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorSession/0da25b05-6dab-4320-a909-28b1deef7fc6','5a37b1281b32923cea7fa126f63c61a81679e61772a5608db14216bc9df63b2e','{"TrafficMirrorSession":{"TrafficMirrorSessionId":"tms-b23a154f7e6a7988a","TrafficMirrorTargetId":"tmt-9762fd7bad394c1bf","TrafficMirrorFilterId":"tmf-25b15e1f79456367b","NetworkInterfaceId":"eni-3c437c8781523eff5","OwnerId":"933374668161","PacketLength":128,"SessionNumber":1,"VirtualNetworkId":101,"Description":"kept","Tags":[{"Key":"pktmirror:packets-per-second","Value":"1000"}]},"ClientToken":"0da25b05-6dab-4320-a909-28b1deef7fc6"}',1.79549708459286522861e+09);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorSession/d509afbc-1c38-4a66-a024-1cdb8c130c9e','dbfe9dd039335591ada85789691d61e4a59f9be24651e7c26028e7175dce61c0','{"TrafficMirrorSession":{"TrafficMirrorSessionId":"tms-e4f41b239fbd28061","TrafficMirrorTargetId":"tmt-9762fd7bad394c1bf","TrafficMirrorFilterId":"tmf-25b15e1f79456367b","NetworkInterfaceId":"eni-77ca4f9bea9a619be","OwnerId":"933374668161","PacketLength":null,"SessionNumber":1,"VirtualNetworkId":102,"Description":null,"Tags":[]},"ClientToken":"d509afbc-1c38-4a66-a024-1cdb8c130c9e"}',1.79549708460174560552e+09);
CREATE TABLE interfaces (
	interface_id TEXT NOT NULL, 
	host_id TEXT NOT NULL, 
	provider_key TEXT NOT NULL, 
	found TEXT NOT NULL, 
	detached_at_s FLOAT, 
	declared_address TEXT, 
	account_id TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (interface_id), 
	UNIQUE (host_id, provider_key)
);
INSERT INTO "interfaces" VALUES('eni-3c437c8781523eff5','host-1','netns:web/eth0','{"key":"netns:web/eth0","provider":"netns","instance":"web","name":"eth0","device":"web0","kind":"veth","mac":"02:00:00:00:00:03","addresses":["10.0.0.10"],"mtu":1500,"up":true,"not_mirrorable":null,"neighbours":[],"facts":null,"plain_key":null}',NULL,'10.0.0.20','');
INSERT INTO "interfaces" VALUES('eni-77ca4f9bea9a619be','host-1','netns:db/eth0','{"key":"netns:db/eth0","provider":"netns","instance":"db","name":"eth0","device":"db0","kind":"veth","mac":"02:00:00:00:00:02","addresses":["10.0.0.11"],"mtu":1500,"up":true,"not_mirrorable":null,"neighbours":[],"facts":null,"plain_key":null}',NULL,NULL,'666464693390');
INSERT INTO "interfaces" VALUES('eni-b9cfc1b2e1085a703','host-1','netns:mon/eth0','{"key":"netns:mon/eth0","provider":"netns","instance":"mon","name":"eth0","device":"mon0","kind":"veth","mac":"02:00:00:00:00:03","addresses":["10.0.0.12"],"mtu":1500,"up":true,"not_mirrorable":null,"neighbours":[],"facts":null,"plain_key":null}',NULL,NULL,'');
CREATE TABLE join_tokens (
	token_id TEXT NOT NULL, 
	digest BLOB NOT NULL, 
	host_id TEXT, 
	expires_at_s FLOAT NOT NULL, 
	used_by TEXT, 
	PRIMARY KEY (token_id)
);
INSERT INTO "join_tokens" VALUES('8j01r_JjH4Y',X'E8485090A8D7065F4D9EC881CF5B5648F5E9E537BC3F31419AD3CD71A86D0D5D','host-2',1.79549768496899294851e+09,'host-2');
INSERT INTO "join_tokens" VALUES('CAbqYibm9WQ',X'FB05E41CDCE1964D3891F0582C6AA548D443454B041A4B0685BD27B7273B1B7D','host-3',1.79549768500818347936e+09,NULL);
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	written_by TEXT, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(7,'0.1.0');
CREATE TABLE session_streams (
	entry TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	vni INTEGER NOT NULL, 
	outer_source TEXT NOT NULL, 
	outer_destination TEXT NOT NULL, 
	PRIMARY KEY (entry)
);
INSERT INTO "session_streams" VALUES('tms-b23a154f7e6a7988a 101 10.0.0.20 10.0.0.12','tms-b23a154f7e6a7988a',101,'10.0.0.20','10.0.0.12');
INSERT INTO "session_streams" VALUES('tms-e4f41b239fbd28061 102 10.0.0.11 10.0.0.12','tms-e4f41b239fbd28061',102,'10.0.0.11','10.0.0.12');
CREATE TABLE session_templates (
	name TEXT NOT NULL, 
	selector TEXT NOT NULL, 
	target_id TEXT NOT NULL, 
	filter_id TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	sessions_max INTEGER NOT NULL, 
	vni INTEGER, 
	packet_bytes_max INTEGER, 
	description TEXT, 
	tags TEXT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "session_templates" VALUES('office/db','{"host":"nobody*"}','tmt-9762fd7bad394c1bf','tmf-25b15e1f79456367b',5,10,NULL,NULL,NULL,'{"team":"red"}');
CREATE TABLE sessions (
	session_id TEXT NOT NULL, 
	interface_id TEXT NOT NULL, 
	target_id TEXT NOT NULL, 
	filter_id TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	vni INTEGER NOT NULL, 
	packet_bytes_max INTEGER, 
	description TEXT, 
	account_id TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (session_id), 
	UNIQUE (interface_id, number), 
	FOREIGN KEY(interface_id) REFERENCES interfaces (interface_id), 
	FOREIGN KEY(target_id) REFERENCES targets (target_id), 
	FOREIGN KEY(filter_id) REFERENCES filters (filter_id)
);
INSERT INTO "sessions" VALUES('tms-b23a154f7e6a7988a','eni-3c437c8781523eff5','tmt-9762fd7bad394c1bf','tmf-25b15e1f79456367b',1,101,128,'kept','');
CREATE TABLE settings (
	name TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "settings" VALUES('account_id','933374668161');
INSERT INTO "settings" VALUES('revision','9');
INSERT INTO "settings" VALUES('networks_file','9ca7e54084905217662d8b3b30f04cb03c029e4d2e1778cad430d766a3fbada3');
INSERT INTO "settings" VALUES('networks','{"vpc":[{"name":"office","cidr":"10.0.0.0/16","ipv6_cidr":null,"resolvers":null,"underlay":{"route_table":254,"device":null,"mtu_max":null,"outer_source":"eni","segmentation":"auto","shortcut":false,"family":null},"subnet":[{"name":"a","cidr":"10.0.0.0/24","ipv6_cidr":null,"zone":null}]}],"interface":[{"host":"host-1","key":"netns:web/eth0","address":"10.0.0.20"}]}');
INSERT INTO "settings" VALUES('ca_fingerprint','8ec7e3692734bd98c6e7e8a33434070551dedbf6a30333a570ad5d1b8ed5508e');
CREATE TABLE tags (
	resource_id TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	account_id TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (resource_id, "key")
);
INSERT INTO "tags" VALUES('tmf-25b15e1f79456367b','Name','ssh – all','');
INSERT INTO "tags" VALUES('tms-b23a154f7e6a7988a','pktmirror:packets-per-second','1000','');
CREATE TABLE targets (
	target_id TEXT NOT NULL, 
	type TEXT NOT NULL, 
	resource TEXT NOT NULL, 
	description TEXT, 
	account_id TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (target_id)
);
INSERT INTO "targets" VALUES('tmt-9762fd7bad394c1bf','network-interface','eni-b9cfc1b2e1085a703','collector','');
INSERT INTO "targets" VALUES('tmt-87911a607ff1c041a','network-load-balancer','arn:aws:elasticloadbalancing:us-east-1:111122223333:loadbalancer/net/NLB/7cdec873EXAMPLE',NULL,'');
INSERT INTO "targets" VALUES('tmt-062cb6a1ddfa2be12','gateway-load-balancer-endpoint','vpce-0123456789abcdef0',NULL,'');
CREATE TABLE unconfirmed_ends (
	session_id TEXT NOT NULL, 
	host_id TEXT NOT NULL, 
	revision BIGINT NOT NULL, 
	ended_at_s FLOAT NOT NULL, 
	PRIMARY KEY (session_id)
);
INSERT INTO "unconfirmed_ends" VALUES('tms-e4f41b239fbd28061','host-1',9,1.79549708467976093292e+09);
CREATE TABLE user_policies (
	policy_key TEXT NOT NULL, 
	user_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	document TEXT NOT NULL, 
	PRIMARY KEY (policy_key), 
	FOREIGN KEY(user_id) REFERENCES users (user_id)
);
INSERT INTO "user_policies" VALUES('AIDAYDTAX3XQRINVGV5TM/reads','AIDAYDTAX3XQRINVGV5TM','reads','{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "ec2:Describe*", "Resource": "*"}]}');
CREATE TABLE users (
	user_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	created_at_s FLOAT NOT NULL, 
	account_id TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (user_id), 
	UNIQUE (account_id, name)
);
INSERT INTO "users" VALUES('AIDAYDTAX3XQRINVGV5TM','ann',1.79549708511129784589e+09,'');
CREATE INDEX ix_tags_account_id ON tags (account_id);
CREATE INDEX ix_access_keys_user_id ON access_keys (user_id);
CREATE INDEX ix_access_keys_account_id ON access_keys (account_id);
CREATE INDEX ix_users_account_id ON users (account_id);
CREATE INDEX ix_idempotency_tokens_created_at_s ON idempotency_tokens (created_at_s);
CREATE INDEX ix_interfaces_account_id ON interfaces (account_id);
CREATE INDEX ix_targets_account_id ON targets (account_id);
CREATE INDEX ix_targets_resource ON targets (resource);
CREATE INDEX ix_filters_account_id ON filters (account_id);
CREATE INDEX ix_session_streams_vni ON session_streams (vni);
CREATE INDEX ix_session_streams_session_id ON session_streams (session_id);
CREATE INDEX ix_unconfirmed_ends_host_id ON unconfirmed_ends (host_id);
CREATE INDEX ix_join_tokens_host_id ON join_tokens (host_id);
CREATE INDEX ix_host_certificates_host_id ON host_certificates (host_id);
CREATE INDEX ix_user_policies_user_id ON user_policies (user_id);
CREATE INDEX ix_filter_rules_account_id ON filter_rules (account_id);
CREATE INDEX ix_sessions_vni ON sessions (vni);
CREATE INDEX ix_sessions_target_id ON sessions (target_id);
CREATE INDEX ix_sessions_filter_id ON sessions (filter_id);
CREATE INDEX ix_sessions_account_id ON sessions (account_id);
COMMIT;
