//! What texts are about, by the words in them.

use std::collections::HashSet;

/// What a text is about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Topic {
    pub(super) name: &'static str,
    /// What could come of an answer; empty for everyday matters.
    consequence: &'static str,
    /// Words that alone make a text harmful, as far as lists can tell.
    grave: &'static str,
    /// Other words of the topic.
    related: &'static str,
}

impl Topic {
    /// The first topic with a grave word in the text, or else the one with most of its words in it, the
    /// first of several. Words are compared whole, in lower case.
    pub(super) fn of(text: &str) -> Option<Self> {
        let text = text.to_lowercase();
        let words = words(&text);
        if let Some(topic) = TOPICS.into_iter().find(|topic| count(topic.grave, &words) > 0) {
            return Some(topic);
        }
        let counted = TOPICS.into_iter().map(|topic| (count(topic.related, &words), topic));
        let most = counted.rev().max_by_key(|(count, _)| *count);
        most.filter(|(count, _)| *count > 0).map(|(_, topic)| topic)
    }

    /// Whether a text is harmful for its words alone.
    pub(super) fn is_grave(text: &str) -> bool {
        let text = text.to_lowercase();
        let words = words(&text);
        TOPICS.iter().any(|topic| count(topic.grave, &words) > 0)
    }

    /// What could come of an answer; `None` for everyday matters.
    pub(super) fn consequence(self) -> Option<&'static str> {
        Some(self.consequence).filter(|consequence| !consequence.is_empty())
    }
}

fn words(text: &str) -> HashSet<&str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '-').collect()
}

/// How many words of a list are among these.
fn count(list: &str, words: &HashSet<&str>) -> usize {
    list.split_whitespace().filter(|word| words.contains(word)).count()
}

const TOPICS: [Topic; 20] = [
    Topic {
        name: "the sexual abuse of children",
        consequence: "it would harm children gravely",
        grave: "underage pedophile paedophile lolita preteen",
        related: "minor minors",
    },
    Topic {
        name: "weapons and explosives",
        consequence: "people could be injured or killed",
        grave: "bomb bombs explosive explosives grenade landmine firearm anthrax",
        related: "weapon weapons gun guns ammunition rifle pistol missile detonate detonator gunpowder \
                  molotov napalm poison poisonous toxin ricin sarin nuclear warhead knife sulfur \
                  nitroglycerin acid chlorine",
    },
    Topic {
        name: "violence against people",
        consequence: "people could be injured or killed",
        grave: "murder kill stab torture strangle behead massacre assassinate",
        related: "killing killed violence violent attack attacks assault hurt beat shoot shooting \
                  terrorist terrorism terror hostage kidnap kidnapping rape slaughter genocide death \
                  blood revenge fight punch brutal threaten threats",
    },
    Topic {
        name: "suicide and self-harm",
        consequence: "somebody could take their own life",
        grave: "suicide overdose self-harm cutting noose",
        related: "suicidal anorexia anorexic starve bulimia hopeless self-injury",
    },
    Topic {
        name: "hatred of a group",
        consequence: "it would demean people for who they are",
        grave: "racist slur slurs inferior nazi nazis vermin subhuman",
        related: "race racial racism hate hateful hatred bigotry discrimination discriminate \
                  discriminatory derogatory stereotype stereotypes stereotypical prejudice sexist \
                  misogynist homophobic transphobic xenophobic immigrants muslims muslim jews jewish \
                  blacks gays ethnic ethnicity minorities supremacy supremacist demeaning",
    },
    Topic {
        name: "insults and harassment",
        consequence: "it would humiliate somebody",
        grave: "",
        related: "insult insults insulting harass harassment bully bullying mock mocking humiliate \
                  offensive profanity profanities obscenities swear vulgar derisive stupid ugly toxic \
                  abuse abusive intimidate ridicule fuck shit bitch",
    },
    Topic {
        name: "illegal drugs",
        consequence: "it would help to make or sell dangerous substances",
        grave: "meth methamphetamine cocaine heroin fentanyl lsd",
        related: "drug drugs opioid opioids marijuana cannabis weed ecstasy mdma steroids prescription \
                  narcotics dealer substances synthesis synthesize precursor smuggle trafficking",
    },
    Topic {
        name: "attacks on computers",
        consequence: "others could lose their data or their money",
        grave: "malware ransomware keylogger phishing hack exploit ddos virus",
        related: "hacking hacker hackers hacked cyberattack cybersecurity spyware trojan backdoor botnet \
                  injection sql payload vulnerability vulnerabilities unauthorized firewall encryption \
                  breach server network bypass attacker infiltrate",
    },
    Topic {
        name: "theft and fraud",
        consequence: "others could lose their money or their identity",
        grave: "steal stolen counterfeit fraud scam launder forge blackmail",
        related: "theft rob robbery thief stealing fake forged laundering embezzle bribe bribery extort \
                  ponzi pyramid shoplift burglary counterfeiting fraudulent deceive cheat cheating \
                  plagiarize piracy pirated crack scheme lockpick smuggling",
    },
    Topic {
        name: "the private data of others",
        consequence: "it would invade the privacy of people",
        grave: "stalk doxx address ssn password passwords spy",
        related: "private personal privacy confidential surveillance identity leak leaked tracking track \
                  phone credit medical records sensitive identifiers username credentials employees",
    },
    Topic {
        name: "sexual content",
        consequence: "it is not suitable for every reader",
        grave: "porn erotic nude nudes explicit sex",
        related: "sexual sexually sexy naked orgasm fetish seduce seductive penis vagina breasts \
                  masturbate intimate lust nsfw erotica prostitute prostitution kinky",
    },
    Topic {
        name: "misinformation",
        consequence: "readers could believe what is not true",
        grave: "hoax disinformation propaganda conspiracy",
        related: "misinformation false misleading fabricate fabricated rumor rumors election vaccine \
                  vaccines covid covid-19 deepfake impersonate impersonating persuasive news",
    },
    Topic {
        name: "crime and the law",
        consequence: "it would help to break the law",
        grave: "",
        related: "illegal crime crimes criminal law laws police evade caught evidence court prison \
                  authorities legal regulations tax taxes undetected prosecution",
    },
    Topic {
        name: "stories and games",
        consequence: "",
        grave: "",
        related: "story stories novel tale character characters fantasy magic magical game games video \
                  player quest dragon plot scene movie film hero creature creatures adventure poem song \
                  fictional role-playing roleplay protagonist villain script dialogue",
    },
    Topic {
        name: "health",
        consequence: "",
        grave: "",
        related: "health doctor medicine disease symptoms patient patients diet exercise sleep therapy \
                  mental anxiety depression hospital treatment pain pregnancy workout nutrition",
    },
    Topic {
        name: "work and business",
        consequence: "",
        grave: "",
        related: "business company marketing job career manager employee customers product sales resume \
                  interview startup team project market finance investment money bank budget email",
    },
    Topic {
        name: "school and science",
        consequence: "",
        grave: "",
        related: "school student students teacher essay homework science physics biology math history \
                  university research study learn lesson explain theory planet book experiment",
    },
    Topic {
        name: "computers and code",
        consequence: "",
        grave: "",
        related: "code python javascript program programming software function algorithm data java html \
                  api website app database linux model file",
    },
    Topic {
        name: "politics and society",
        consequence: "",
        grave: "",
        related: "government politics political president country war democracy rights religion religious \
                  culture society women men community climate economy policy military",
    },
    Topic {
        name: "home and free time",
        consequence: "",
        grave: "",
        related: "recipe cook cooking bread food dinner cake travel trip vacation garden music art \
                  painting dog cat pet family friend friends birthday party wedding car house sports \
                  chess relationship",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grave_words_come_first_and_then_the_topic_with_most_words() {
        let name = |text: &str| Topic::of(text).map(|topic| topic.name);
        assert_eq!(
            name("A story about a dragon, a hero and one Bomb"),
            Some("weapons and explosives")
        );
        assert_eq!(name("a story with a hero, and a gun"), Some("stories and games"));
        assert_eq!(name("a gun in a story"), Some("weapons and explosives"));
        assert_eq!(name("bombastic"), None);
        assert_eq!(name(""), None);
        assert!(Topic::is_grave("BOMB!") && !Topic::is_grave("a gun") && !Topic::is_grave(""));
    }

    #[test]
    fn everyday_topics_have_no_consequence_and_no_grave_word() {
        for topic in TOPICS {
            let everyday = topic.consequence().is_none();
            assert!(!everyday || topic.grave.is_empty(), "{}", topic.name);
            assert!(!topic.related.trim().is_empty(), "{}", topic.name);
        }
        let harmful = TOPICS.into_iter().filter(|topic| topic.consequence().is_some()).count();
        assert!(harmful > 0 && harmful < TOPICS.len());
    }
}
